//! Lines of JSON made a Parquet file.

use super::shred::{Shredder, Values};
use super::{Shape, schema};
use crate::jobs::done::for_each_line;
use crate::jobs::ledger::{manifest_path, read_manifest};
use crate::jobs::whole::replace;
use entropix_model::{Error, Result};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::Arc;

/// Rows of a row group: enough for columns to pack well, few enough to hold.
const GROUP_ROWS: usize = 100_000;
/// Bytes of a row group before it is packed.
const GROUP_BYTES: usize = 64 << 20;

/// Makes `parquet` of the whole lines of `lines`; it is there whole or not at all. The file carries what the lines
/// were made with under `entropix.manifest`, a trace what it is of under `entropix.trace`.
pub(super) fn write(lines: &Path, parquet: &Path, shape: Shape) -> Result<()> {
    let from = File::open(lines).map_err(|e| Error::io(lines, "open", &e))?;
    let manifest = read_manifest(&manifest_path(lines))?;
    replace(parquet, &mut |file| {
        let mut table = Table::begin(file, shape).map_err(io::Error::other)?;
        if let Some(manifest) = &manifest {
            let text = String::from_utf8_lossy(&manifest.to_json()).into_owned();
            table.tell("entropix.manifest", text);
        }
        let mut number = 0;
        for_each_line(BufReader::with_capacity(1 << 16, &from), &mut |line| {
            number += 1;
            let row = serde_json::from_slice(line).map_err(|e| e.to_string());
            row.and_then(|row: Value| table.add(row)).map_err(|why| {
                io::Error::other(Error::data("Output", format!("{}:{number}: {why}", lines.display())))
            })
        })?;
        table.finish().map_err(io::Error::other)
    })
}

struct Table<W: Write + Send> {
    file: SerializedFileWriter<W>,
    rows: Shredder,
    n_rows: usize,
    /// What the lines of a trace that are no events say.
    heads: Vec<Value>,
}

impl<W: Write + Send> Table<W> {
    fn begin(file: W, shape: Shape) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(&schema::of(shape))?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("entropix ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let rows = Shredder::new(&schema);
        let file = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        Ok(Self { file, rows, n_rows: 0, heads: Vec::new() })
    }

    fn tell(&mut self, key: &str, value: String) {
        self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }

    fn add(&mut self, row: Value) -> Result<(), String> {
        if row["event"] == "trace" {
            self.heads.push(row);
            return Ok(());
        }
        self.rows.add(&row)?;
        self.n_rows += 1;
        if self.n_rows == GROUP_ROWS || self.rows.n_bytes() >= GROUP_BYTES {
            self.flush().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Writes the row group that is full.
    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.n_rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for column in self.rows.columns() {
            let mut writer = group.next_column()?.expect("a writer for every column of the schema");
            let (def, rep) = (Some(&column.definition[..]), Some(&column.repetition[..]));
            match &column.values {
                Values::Bool(values) => writer.typed::<BoolType>().write_batch(values, def, rep)?,
                Values::Int32(values) => writer.typed::<Int32Type>().write_batch(values, def, rep)?,
                Values::Int64(values) => writer.typed::<Int64Type>().write_batch(values, def, rep)?,
                Values::Float(values) => writer.typed::<FloatType>().write_batch(values, def, rep)?,
                Values::Double(values) => writer.typed::<DoubleType>().write_batch(values, def, rep)?,
                Values::Bytes(values) => writer.typed::<ByteArrayType>().write_batch(values, def, rep)?,
            };
            writer.close()?;
        }
        group.close()?;
        self.rows.clear();
        self.n_rows = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(), ParquetError> {
        self.flush()?;
        if !self.heads.is_empty() {
            let heads = Value::Array(std::mem::take(&mut self.heads)).to_string();
            self.tell("entropix.trace", heads);
        }
        self.file.close().map(|_| ())
    }
}
