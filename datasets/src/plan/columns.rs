//! The columns of a plan: which ones, whether all files have them, and their types.
//!
//! The first file with columns says what "all columns" are. Parquet and Arrow files bring their types, and must agree on
//! them; files of text then get the same. Otherwise types are given, inferred, or all text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::table::{self, Prefix};

use super::{Facts, PlanError, PlanOptions, PlannedFile, Projection, SchemaRequest};

/// Checks that the files agree on the columns asked for, and decides their types.
pub(super) fn decide(options: &PlanOptions, files: &[PlannedFile], facts: &[Facts]) -> Result<Option<SchemaRef>, PlanError> {
    let tabular = |file: &PlannedFile| options.shape.is_tabular(file.file.format);
    let with_columns: Vec<_> = files.iter().zip(facts).filter(|(file, _)| tabular(file) && file.header.is_some()).collect();
    let asked = asked(options, &with_columns);
    for (file, _) in &with_columns {
        check_names(file, asked.as_deref(), &options.columns)?;
    }
    let stored = stored(asked.as_deref().unwrap_or_default(), &with_columns)?;
    if !files.iter().any(tabular) {
        return Ok(None);
    }
    let fields = match (&options.schema, stored) {
        (SchemaRequest::NotNeeded, _) => return Ok(None),
        (SchemaRequest::Given(given), Some(fields)) => check_given(&fields, given, &with_columns).map(|()| fields)?,
        (_, Some(fields)) => fields,
        (SchemaRequest::AllText, None) => asked.unwrap_or_default().iter().map(|name| text(name)).collect(),
        (SchemaRequest::Infer, None) => chosen(asked, &infer(options, files, facts), &Schema::empty(), files)?,
        (SchemaRequest::Given(given), None) => {
            for (file, _) in &with_columns {
                let columns = file.header.as_deref().unwrap_or_default();
                if let Some(field) = given.fields().iter().find(|field| !columns.contains(field.name())) {
                    return Err(no_column(file, field.name(), columns));
                }
            }
            chosen(asked, &infer(options, files, facts), given, files)?
        }
    };
    Ok(Some(Arc::new(Schema::new(fields))))
}

/// Names the columns asked for; nothing if all are and no file says beforehand what it has.
fn asked(options: &PlanOptions, with_columns: &[(&PlannedFile, &Facts)]) -> Option<Vec<String>> {
    match &options.columns {
        Projection::Names(names) => Some(names.clone()),
        Projection::All => with_columns.first().and_then(|(file, _)| file.header.clone()),
    }
}

fn check_names(file: &PlannedFile, asked: Option<&[String]>, projection: &Projection) -> Result<(), PlanError> {
    let (columns, asked) = (file.header.as_deref().unwrap_or_default(), asked.unwrap_or_default());
    for name in asked {
        match columns.iter().filter(|column| *column == name).count() {
            0 => return Err(no_column(file, name, columns)),
            1 => {}
            _ => return Err(PlanError::AmbiguousColumn { path: file.file.path.clone(), column: name.clone() }),
        }
    }
    match columns.iter().find(|column| *projection == Projection::All && !asked.contains(column)) {
        // The column is missing from the files before, which are all alike.
        Some(extra) => Err(PlanError::ExtraColumn { path: file.file.path.clone(), column: extra.clone(), columns: asked.to_vec() }),
        None => Ok(()),
    }
}

/// Finds the fields that columnar files bring, if there are any such files.
fn stored(asked: &[String], with_columns: &[(&PlannedFile, &Facts)]) -> Result<Option<Vec<FieldRef>>, PlanError> {
    let mut agreed: Option<Vec<FieldRef>> = None;
    for (file, facts) in with_columns {
        let Some(footer) = &facts.footer else { continue };
        let field = |name: &String| footer.schema.field_with_name(name).map(nullable).expect("its name was checked");
        let fields: Vec<_> = asked.iter().map(field).collect();
        let before = agreed.get_or_insert_with(|| fields.clone());
        for (field, before) in fields.iter().zip(before) {
            check_type(file, field, before.data_type())?;
        }
    }
    Ok(agreed)
}

fn check_given(fields: &[FieldRef], given: &Schema, with_columns: &[(&PlannedFile, &Facts)]) -> Result<(), PlanError> {
    let Some((file, _)) = with_columns.iter().find(|(_, facts)| facts.footer.is_some()) else { return Ok(()) };
    fields.iter().try_for_each(|field| match given.field_with_name(field.name()) {
        Ok(given) => check_type(file, field, given.data_type()),
        Err(_) => Ok(()),
    })
}

fn check_type(file: &PlannedFile, field: &Field, expected: &DataType) -> Result<(), PlanError> {
    if field.data_type() == expected {
        return Ok(());
    }
    Err(PlanError::ColumnType {
        path: file.file.path.clone(),
        column: field.name().clone(),
        found: field.data_type().clone(),
        expected: expected.clone(),
    })
}

/// Chooses the asked columns from the given types and the inferred ones.
fn chosen(asked: Option<Vec<String>>, inferred: &Schema, given: &Schema, files: &[PlannedFile]) -> Result<Vec<FieldRef>, PlanError> {
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let all = || {
        let mut all = names(inferred);
        all.extend(names(given).into_iter().filter(|name| inferred.column_with_name(name).is_none()));
        all
    };
    let field = |name: String| match (given.field_with_name(&name), inferred.field_with_name(&name)) {
        (Ok(field), _) | (_, Ok(field)) => Ok(nullable(field)),
        // A column that some header names, and no row of the prefixes has.
        _ if files.iter().all(|file| file.header.is_some() || file.file.format.delimiter().is_some()) => Ok(text(&name)),
        // Fields of JSON lines that the prefixes do not show must be given.
        _ => Err(no_column(&files[0], &name, &names(inferred))),
    };
    asked.unwrap_or_else(all).into_iter().map(field).collect()
}

/// Infers the types of the columns of all files of text from their prefixes.
fn infer(options: &PlanOptions, files: &[PlannedFile], facts: &[Facts]) -> Schema {
    let prefixes = files.iter().zip(facts).filter_map(|(file, facts)| {
        let records = facts.head.as_ref().map(|head| head.prefix.as_slice()).filter(|records| !records.is_empty())?;
        Some(Prefix { format: file.file.format, csv: options.csv, names: file.header.as_deref(), records })
    });
    table::infer(&prefixes.collect::<Vec<_>>())
}

fn text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, true))
}

fn nullable(field: &Field) -> FieldRef {
    Arc::new(Field::new(field.name(), field.data_type().clone(), true))
}

fn no_column(file: &PlannedFile, column: &str, columns: &[String]) -> PlanError {
    PlanError::NoColumn { path: file.file.path.clone(), column: column.to_owned(), columns: columns.to_vec() }
}
