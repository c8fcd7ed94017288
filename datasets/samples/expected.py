"""Writes expected/ from the samples beside it, with the standard library of Python alone: python3 expected.py"""
import csv
import json
import re
from collections import Counter, defaultdict
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path

HERE = Path(__file__).parent
# Unicode's White_Space, as Rust's str::split_whitespace has it; Python's own split() also takes U+001C to U+001F.
SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def write(name, header, rows):
    with open(HERE / "expected" / name, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def rows_of_csv():
    with open(HERE / "sales.csv", newline="", encoding="utf-8") as file:
        return [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]


def rows_of_json():
    text = lambda value: value if value is None else str(value)
    with open(HERE / "sales.jsonl", newline="", encoding="utf-8") as file:
        lines = file.read().split("\n")[:-1]
    rows = [json.loads(line, parse_float=Decimal, parse_int=str) for line in lines]
    return [{name: text(value) for name, value in row.items()} for row in rows]


def average(values, scale):
    """The exact quotient, rounded half to even at six digits more than the values have."""
    if not values:
        return None
    with localcontext() as context:
        context.prec = 100
        return (sum(values) / len(values)).quantize(Decimal(1).scaleb(-scale - 6), ROUND_HALF_EVEN)


def by(rows, *names):
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return sorted(groups.items(), key=lambda group: [value.encode() for value in group[0]])


def numbers(group, name):
    return [Decimal(row[name]) for row in group if row[name] is not None]


def revenue(group):
    """Null where either factor of all rows is null."""
    products = [Decimal(row["price"]) * Decimal(row["quantity"]) for row in group if row["quantity"] and row["price"]]
    return sum(products) if products else None


def total(values):
    return sum(values) if values else None


words = Counter(word for word in SPACE.split((HERE / "harbour.txt").read_bytes().decode()) if word)
write("words.csv", ["word", "count"], sorted(words.items(), key=lambda item: item[0].encode()))

sales = rows_of_csv()
assert sales == rows_of_json()
write(
    "sales-by-city-category.csv",
    ["city", "category", "sales", "units", "revenue", "average_discount", "highest_price"],
    (
        [*key, len(group), total(numbers(group, "quantity")), revenue(group), average(numbers(group, "discount"), 3), max(numbers(group, "price"))]
        for key, group in by(sales, "city", "category")
    ),
)
write("sales-by-customer.csv", ["customer", "sales", "revenue"], ([*key, len(group), revenue(group)] for key, group in by(sales, "customer")))
ordered = sorted(sales, key=lambda row: (row["city"].encode(), -Decimal(row["price"])))
write("sales-sorted.csv", sales[0].keys(), (row.values() for row in ordered))
