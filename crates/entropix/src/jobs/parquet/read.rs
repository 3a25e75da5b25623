//! The decoder: rows of a Parquet file as JSON objects, a line each, named by their columns. What is null in a row or
//! a struct is left out, as if nobody had spoken of it.

use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use std::fs::File;
use std::io::{self, Write};

/// Rows decoded ahead, of every column.
const ROWS_AHEAD: usize = 128;

/// Writes the rows of `file` to `out`. `before_each` is called before every few rows, to give their decoding its time.
///
/// # Errors
/// What cannot be decoded or has no words in JSON, with its column and row; what cannot be written.
pub fn serve(file: File, out: impl Write, before_each: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    before_each()?;
    let mut out = io::BufWriter::with_capacity(1 << 16, out);
    let reader = SerializedFileReader::new(file).map_err(other)?;
    check_columns(&reader)?;
    let mut line = Vec::new();
    for (row, fields) in RowIter::from_file_into(Box::new(reader)).with_batch_size(ROWS_AHEAD).enumerate() {
        if row % ROWS_AHEAD == 0 {
            before_each()?;
        }
        let failed = |error: String| io::Error::other(format!("row {}: {error}", row + 1));
        let fields = fields.map_err(|error| failed(error.to_string()))?;
        line.clear();
        put_object(&mut line, fields.get_column_iter()).map_err(|why| failed(format!("the column {why}")))?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()
}

/// Refuses columns that could be no part of a request, before anything is read.
fn check_columns(reader: &impl FileReader) -> io::Result<()> {
    for column in reader.metadata().file_metadata().schema_descr().columns() {
        let of = match (column.physical_type(), column.logical_type_ref()) {
            (_, Some(LogicalType::Decimal { .. })) => "decimals",
            (_, Some(LogicalType::Date)) => "dates",
            (_, Some(LogicalType::Time { .. })) => "times",
            (_, Some(LogicalType::Timestamp { .. })) | (PhysicalType::INT96, _) => "times",
            _ => continue,
        };
        let name = column.path().string();
        return Err(io::Error::other(format!(
            "the column {name} is of {of}, which no request has; write it as texts or numbers, or leave it out"
        )));
    }
    Ok(())
}

fn other(error: impl std::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// An error begins with the names of the columns that lead to it.
fn put_object<'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (impl AsRef<str>, &'a Field)>,
) -> Result<(), String> {
    let mut next = b'{';
    for (name, field) in fields.filter(|(_, field)| !matches!(field, Field::Null)) {
        out.push(next);
        next = b',';
        put_text(out, name.as_ref());
        out.push(b':');
        put(out, field).map_err(|why| format!("{}: {why}", name.as_ref()))?;
    }
    if next == b'{' {
        out.push(next);
    }
    out.push(b'}');
    Ok(())
}

fn put(out: &mut Vec<u8>, field: &Field) -> Result<(), String> {
    match field {
        Field::Null => out.extend_from_slice(b"null"),
        Field::Bool(value) => put_display(out, value),
        Field::Byte(value) => put_display(out, value),
        Field::Short(value) => put_display(out, value),
        Field::Int(value) => put_display(out, value),
        Field::Long(value) => put_display(out, value),
        Field::UByte(value) => put_display(out, value),
        Field::UShort(value) => put_display(out, value),
        Field::UInt(value) => put_display(out, value),
        Field::ULong(value) => put_display(out, value),
        Field::Float16(value) => put_number(out, f64::from(*value), value)?,
        Field::Float(value) => put_number(out, f64::from(*value), value)?,
        Field::Double(value) => put_number(out, *value, value)?,
        Field::Str(text) => put_text(out, text),
        // Old writers do not mark texts.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => put_text(out, text),
            Err(_) => return Err("holds bytes that are no text".into()),
        },
        Field::Group(row) => put_object(out, row.get_column_iter())?,
        Field::ListInternal(list) => {
            out.push(b'[');
            for (i, element) in list.elements().iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put(out, element)?;
            }
            out.push(b']');
        }
        Field::MapInternal(map) => {
            let name = |key: &Field| match key {
                Field::Str(name) => Ok(name.clone()),
                Field::Int(number) => Ok(number.to_string()),
                Field::Long(number) => Ok(number.to_string()),
                _ => Err("has keys that are neither texts nor numbers"),
            };
            let names = map.entries().iter().map(|(key, _)| name(key)).collect::<Result<Vec<_>, _>>()?;
            put_object(out, names.iter().zip(map.entries().iter().map(|(_, value)| value)))?;
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => return Err("holds what has no words in JSON".into()),
    }
    Ok(())
}

fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("memory takes all");
}

fn put_number(out: &mut Vec<u8>, value: f64, shown: impl std::fmt::Display) -> Result<(), String> {
    if !value.is_finite() {
        return Err(format!("holds {value}, which is no number in JSON"));
    }
    put_display(out, shown);
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("memory takes all");
}
