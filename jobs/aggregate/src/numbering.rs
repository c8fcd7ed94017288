//! Numbers for groups, where there are few of them.
//!
//! Owns the way from the grouping columns of a batch to one small number for each row. Each column has a *domain*: the pieces of
//! keys that it was seen to have, each with a code. The codes of a row, side by side, are its *cell*, and a table as large as all
//! cells gives the group's number:
//!
//! ```text
//!   city     Gent 0, Faro 1, …      2 bits ┐
//!   category toys 0, …              3 bits ┴▶ cell (code of category, code of city) ─▶ number of the group
//! ```
//!
//! Dictionaries, as Parquet has them and columns of CSV with few values, are looked up once for each of their values; of other columns each row's piece is. Where the
//! table of cells would be too large, or a column has many values, there are no numbers.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::key::{KeyColumn, Keys};

/// The largest table of cells, 256 KiB.
const CELL_BITS_MAX: u32 = 16;
/// The most pieces of a column, and the most bytes in them.
const PIECES_MAX: usize = 1 << 12;
const PIECE_BYTES_MAX: usize = 256 << 10;

/// The groups seen, and their numbers.
#[derive(Default)]
pub(crate) struct Numbering {
    domains: Vec<Domain>,
    /// By cell: the number of its group + 1, or zero.
    cells: Vec<u32>,
    /// The cell of each group.
    members: Vec<u32>,
    /// Scratch: the cells, then the numbers of the rows of a batch.
    rows: Vec<u32>,
}

/// The pieces that one column was seen to have.
#[derive(Default)]
struct Domain {
    codes: HashMap<Box<[u8]>, u32, FixedState>,
    pieces: Vec<Box<[u8]>>,
    piece_bytes: usize,
    /// Where its code stands in a cell.
    shift: u32,
    bits: u32,
    /// Scratch: codes of the rows of a batch, or of the values of its dictionary.
    found: Vec<u32>,
    piece: Vec<u8>,
}

impl Numbering {
    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The number of each row's group, of the batch found last.
    pub(crate) fn numbers(&self) -> &[u32] {
        &self.rows
    }

    /// Finds the group of each row, new ones counted on from `len`; none, and no group added, where there would be more than
    /// `limit` groups or too many cells.
    pub(crate) fn find(&mut self, keys: &Keys, rows: usize, limit: usize) -> Option<()> {
        let columns = keys.columns();
        self.domains.resize_with(columns.len(), Domain::default);
        for (domain, column) in self.domains.iter_mut().zip(columns) {
            domain.find(column, rows)?;
        }
        if self.cells.is_empty() || self.domains.iter().any(|domain| domain.pieces.len() > 1 << domain.bits) {
            self.lay_out()?;
        }
        self.rows.clear();
        self.rows.resize(rows, 0);
        for (domain, column) in self.domains.iter().zip(columns) {
            domain.add_codes(column, &mut self.rows);
        }
        let known = self.members.len();
        for row in &mut self.rows {
            let number = &mut self.cells[*row as usize];
            if *number == 0 {
                self.members.push(*row);
                *number = self.members.len() as u32;
            }
            *row = *number - 1;
        }
        if self.members.len() > limit {
            self.members.drain(known..).for_each(|cell| self.cells[cell as usize] = 0);
            return None;
        }
        Some(())
    }

    /// Gives every domain twice the codes it has, and moves the groups to their new cells.
    fn lay_out(&mut self) -> Option<()> {
        let bits = |domain: &Domain| domain.pieces.len().next_power_of_two().trailing_zeros();
        let needed: u32 = self.domains.iter().map(bits).sum();
        if needed > CELL_BITS_MAX {
            return None;
        }
        let mut spare = CELL_BITS_MAX - needed;
        let mut shift = 0;
        let mut moved = vec![0; self.members.len()];
        for domain in &mut self.domains {
            let more = u32::from(spare > 0);
            spare -= more;
            let wide = bits(domain) + more;
            for (to, from) in moved.iter_mut().zip(&self.members) {
                *to |= domain.code_in(*from) << shift;
            }
            (domain.shift, domain.bits) = (shift, wide);
            shift += wide;
        }
        self.members = moved;
        self.cells.clear();
        self.cells.resize(1 << shift, 0);
        for (number, cell) in (1..).zip(&self.members) {
            self.cells[*cell as usize] = number;
        }
        Some(())
    }

    /// Appends the key of a group.
    pub(crate) fn push_key(&self, group: usize, key: &mut Vec<u8>) {
        for domain in &self.domains {
            key.extend_from_slice(&domain.pieces[domain.code_in(self.members[group]) as usize]);
        }
    }

    /// Forgets the groups; codes stay, unless there are too many.
    pub(crate) fn clear(&mut self, keeps_codes: bool) {
        self.members.clear();
        if keeps_codes {
            self.cells.fill(0);
        } else {
            self.cells.clear();
            self.domains.clear();
        }
    }
}

impl Domain {
    /// Finds the codes of a column's rows, or of its dictionary; none where the pieces are too many.
    fn find(&mut self, column: &KeyColumn, rows: usize) -> Option<()> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        if let Some(pieces) = column.pieces() {
            for piece in pieces.iter() {
                found.push(self.code(piece)?);
            }
            if pieces.nulls.is_some() {
                self.piece.clear();
                column.push_null(&mut self.piece);
                found.push(self.code_of_scratch()?);
            }
        } else {
            for row in 0..rows {
                self.piece.clear();
                column.push(row, &mut self.piece);
                found.push(self.code_of_scratch()?);
            }
        }
        self.found = found;
        Some(())
    }

    fn code_of_scratch(&mut self) -> Option<u32> {
        let piece = std::mem::take(&mut self.piece);
        let code = self.code(&piece);
        self.piece = piece;
        code
    }

    /// The code of a piece; none where there is no room for a new one.
    fn code(&mut self, piece: &[u8]) -> Option<u32> {
        if let Some(code) = self.codes.get(piece) {
            return Some(*code);
        }
        if self.pieces.len() == PIECES_MAX || self.piece_bytes + piece.len() > PIECE_BYTES_MAX {
            return None;
        }
        let code = self.pieces.len() as u32;
        self.pieces.push(piece.into());
        self.piece_bytes += piece.len();
        self.codes.insert(piece.into(), code);
        Some(code)
    }

    /// Adds the codes just found to the cells of the rows.
    fn add_codes(&self, column: &KeyColumn, cells: &mut [u32]) {
        let shift = self.shift;
        let Some(pieces) = column.pieces() else {
            return cells.iter_mut().zip(&self.found).for_each(|(cell, code)| *cell |= code << shift);
        };
        match pieces.nulls {
            None => cells.iter_mut().zip(pieces.indices).for_each(|(cell, &index)| *cell |= self.found[index as usize] << shift),
            Some(nulls) => {
                let null = self.found.len() - 1;
                for ((cell, &index), is_valid) in cells.iter_mut().zip(pieces.indices).zip(nulls) {
                    *cell |= self.found[if is_valid { index as usize } else { null }] << shift;
                }
            }
        }
    }

    /// This column's code in a cell.
    fn code_in(&self, cell: u32) -> u32 {
        cell >> self.shift & ((1 << self.bits) - 1)
    }
}
