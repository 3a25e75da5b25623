//! JSON objects taken apart into columns: what Dremel (Melnik et al. 2010) calls shredding. Every value of a leaf comes
//! with two levels: how many of the optional and repeated fields on the way to it are there (its definition level), and
//! which of the repeated ones it is a further element of (its repetition level; 0 begins a row).

use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::data_type::ByteArray;
use parquet::schema::types::Type;
use serde_json::Value;

/// The columns of rows to come.
pub(super) struct Shredder {
    root: Vec<Field>,
    columns: Vec<Column>,
    n_bytes: usize,
}

/// The values of one leaf: one pair of levels for each, and for each place where there is none.
pub(super) struct Column {
    /// The defined ones.
    pub(super) values: Values,
    /// (n)
    pub(super) definition: Vec<i16>,
    /// (n)
    pub(super) repetition: Vec<i16>,
}

pub(super) enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
}

/// All fields are optional.
struct Field {
    name: String,
    kind: Kind,
}

enum Kind {
    Leaf {
        column: usize,
        is_json: bool,
    },
    Group(Vec<Field>),
    /// `depth` counts the lists around an element, itself included.
    List {
        element: Box<Field>,
        depth: i16,
    },
}

impl Shredder {
    /// For rows of `schema`, all of whose fields are optional and whose lists have three levels.
    pub(super) fn new(schema: &Type) -> Self {
        let mut columns = Vec::new();
        let root = schema.get_fields().iter().map(|field| Field::new(field, 0, &mut columns)).collect();
        Self { root, columns, n_bytes: 0 }
    }

    /// Takes a row apart, or says what in it has no place. What it has taken then stays.
    pub(super) fn add(&mut self, row: &Value) -> Result<(), String> {
        let Self { root, columns, n_bytes } = self;
        put_group(root, row, 0, 0, &mut Sink { columns, n_bytes })
    }

    /// Bytes of the texts of these rows, and some for their numbers.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// The columns, which are then to be cleared.
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.n_bytes = 0;
        for Column { values, definition, repetition } in &mut self.columns {
            values.clear();
            definition.clear();
            repetition.clear();
        }
    }
}

impl Field {
    fn new(schema: &Type, depth: i16, columns: &mut Vec<Column>) -> Self {
        let name = schema.name().to_owned();
        let logical = schema.get_basic_info().logical_type_ref();
        let kind = if schema.is_primitive() {
            let values = Values::of(schema.get_physical_type());
            columns.push(Column { values, definition: Vec::new(), repetition: Vec::new() });
            Kind::Leaf { column: columns.len() - 1, is_json: logical == Some(&LogicalType::Json) }
        } else if logical == Some(&LogicalType::List) {
            let element = &schema.get_fields()[0].get_fields()[0];
            let depth = depth + 1;
            Kind::List { element: Box::new(Field::new(element, depth, columns)), depth }
        } else {
            Kind::Group(schema.get_fields().iter().map(|field| Field::new(field, depth, columns)).collect())
        };
        Self { name, kind }
    }

    fn put(
        &self,
        value: Option<&Value>,
        repetition: i16,
        definition: i16,
        sink: &mut Sink,
    ) -> Result<(), String> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            self.put_none(repetition, definition, sink);
            return Ok(());
        };
        let definition = definition + 1;
        let put = match &self.kind {
            Kind::Leaf { column, is_json } => sink.put(*column, value, *is_json, repetition, definition),
            Kind::Group(fields) => put_group(fields, value, repetition, definition, sink),
            Kind::List { element, depth } => match value.as_array().map(Vec::as_slice) {
                None => Err(format!("is {value} where a list belongs")),
                Some([]) => {
                    element.put_none(repetition, definition, sink);
                    Ok(())
                }
                Some(elements) => elements.iter().enumerate().try_for_each(|(i, value)| {
                    let repetition = if i == 0 { repetition } else { *depth };
                    element.put(Some(value), repetition, definition + 1, sink)
                }),
            },
        };
        put.map_err(|why| format!("{}: {why}", self.name))
    }

    /// Marks that there is nothing here, in every leaf.
    fn put_none(&self, repetition: i16, definition: i16, sink: &mut Sink) {
        match &self.kind {
            Kind::Leaf { column, .. } => sink.mark(*column, repetition, definition),
            Kind::Group(fields) => {
                fields.iter().for_each(|field| field.put_none(repetition, definition, sink));
            }
            Kind::List { element, .. } => element.put_none(repetition, definition, sink),
        }
    }
}

/// An object by the names of its fields, or a list of their values in order.
fn put_group(
    fields: &[Field],
    value: &Value,
    repetition: i16,
    definition: i16,
    sink: &mut Sink,
) -> Result<(), String> {
    if let Value::Array(values) = value
        && values.len() == fields.len()
    {
        let mut both = fields.iter().zip(values);
        return both.try_for_each(|(field, value)| field.put(Some(value), repetition, definition, sink));
    }
    let Value::Object(object) = value else {
        return Err(format!("is {value} where an object belongs"));
    };
    let mut n_known = 0;
    for field in fields {
        let value = object.get(&field.name);
        n_known += usize::from(value.is_some());
        field.put(value, repetition, definition, sink)?;
    }
    if n_known < object.len() {
        let unknown = object.keys().find(|key| !fields.iter().any(|field| field.name == **key));
        return Err(format!("has no column for {}", unknown.map_or("", String::as_str)));
    }
    Ok(())
}

struct Sink<'a> {
    columns: &'a mut [Column],
    n_bytes: &'a mut usize,
}

impl Sink<'_> {
    fn mark(&mut self, column: usize, repetition: i16, definition: i16) {
        let column = &mut self.columns[column];
        column.repetition.push(repetition);
        column.definition.push(definition);
        *self.n_bytes += 4;
    }

    fn put(
        &mut self,
        column: usize,
        value: &Value,
        is_json: bool,
        repetition: i16,
        definition: i16,
    ) -> Result<(), String> {
        *self.n_bytes += self.columns[column].values.push(value, is_json)?;
        self.mark(column, repetition, definition);
        Ok(())
    }
}

impl Values {
    fn of(physical: PhysicalType) -> Self {
        match physical {
            PhysicalType::BOOLEAN => Values::Bool(Vec::new()),
            PhysicalType::INT32 => Values::Int32(Vec::new()),
            PhysicalType::INT64 => Values::Int64(Vec::new()),
            PhysicalType::FLOAT => Values::Float(Vec::new()),
            PhysicalType::DOUBLE => Values::Double(Vec::new()),
            _ => Values::Bytes(Vec::new()),
        }
    }

    /// Gives the bytes it takes.
    fn push(&mut self, value: &Value, is_json: bool) -> Result<usize, String> {
        let wrong = |what| format!("is {value} where {what} belongs");
        Ok(match self {
            Values::Bool(values) => {
                values.push(value.as_bool().ok_or_else(|| wrong("a truth value"))?);
                1
            }
            Values::Int32(values) => {
                let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
                values.push(number.ok_or_else(|| wrong("a number of 32 bits"))?);
                4
            }
            Values::Int64(values) => {
                values.push(value.as_i64().ok_or_else(|| wrong("a number of 64 bits"))?);
                8
            }
            // The lines have the shortest decimals of an f32, which read back as the same.
            Values::Float(values) => {
                values.push(value.as_f64().ok_or_else(|| wrong("a number"))? as f32);
                4
            }
            Values::Double(values) => {
                values.push(value.as_f64().ok_or_else(|| wrong("a number"))?);
                8
            }
            Values::Bytes(values) => {
                let text = match value {
                    _ if is_json => value.to_string(),
                    Value::String(text) => text.clone(),
                    _ => return Err(wrong("a text")),
                };
                let n = text.len();
                values.push(ByteArray::from(text.into_bytes()));
                n
            }
        })
    }

    fn clear(&mut self) {
        match self {
            Values::Bool(values) => values.clear(),
            Values::Int32(values) => values.clear(),
            Values::Int64(values) => values.clear(),
            Values::Float(values) => values.clear(),
            Values::Double(values) => values.clear(),
            Values::Bytes(values) => values.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::schema::parser::parse_message_type;
    use serde_json::json;

    /// The levels of the example in section 4 of the Dremel paper (its figures 2 and 3), in a schema where every field
    /// is optional: definition levels count one more for each field that is required there.
    #[test]
    fn levels_are_those_of_the_paper() {
        let schema = parse_message_type(
            "message document { optional group name (LIST) { repeated group list { optional group element {
               optional group language (LIST) { repeated group list { optional group element {
                 optional binary code (STRING); optional binary country (STRING); } } }
               optional binary url (STRING); } } } }",
        )
        .unwrap();
        let mut shredder = Shredder::new(&schema);
        shredder
            .add(&json!({"name": [
                {"language": [{"code": "en-us", "country": "us"}, {"code": "en"}], "url": "http://A"},
                {"url": "http://B"},
                {"language": [{"code": "en-gb", "country": "gb"}]},
            ]}))
            .unwrap();
        shredder.add(&json!({"name": [{"url": "http://C"}]})).unwrap();
        let [code, country, url] = shredder.columns() else { panic!("three leaves") };
        // Figure 3: code has the repetition levels 0 2 1 1 0, country too, url 0 1 1 0.
        assert_eq!(code.repetition, [0, 2, 1, 1, 0]);
        assert_eq!(country.repetition, [0, 2, 1, 1, 0]);
        assert_eq!(url.repetition, [0, 1, 1, 0]);
        // name, list, element, language, list, element, code: 7 when all are there, 3 without a language.
        assert_eq!(code.definition, [7, 7, 3, 7, 3]);
        assert_eq!(country.definition, [7, 6, 3, 7, 3]);
        assert_eq!(url.definition, [4, 4, 3, 4]);
    }

    #[test]
    fn what_has_no_place_is_told() {
        let schema = parse_message_type(
            "message m { optional int32 a; optional group b { optional binary c (STRING); } }",
        );
        let mut shredder = Shredder::new(&schema.unwrap());
        for (row, wanted) in [
            (json!({"a": 1.5}), "a: is 1.5 where a number of 32 bits belongs"),
            (json!({"a": 4_294_967_296_u64}), "a: is 4294967296 where a number of 32 bits belongs"),
            (json!({"b": {"c": 1}}), "b: c: is 1 where a text belongs"),
            (json!({"b": {"d": 1}}), "b: has no column for d"),
            (json!({"z": null}), "has no column for z"),
            (json!(1), "is 1 where an object belongs"),
        ] {
            assert_eq!(shredder.add(&row).unwrap_err(), wanted);
        }
    }
}
