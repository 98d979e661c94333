//! Reads typed values from merged ones and says where a value does not fit.
//!
//! figment's own deserializer takes a number for the name of a variant; ours does not, and it keeps
//! the whole path of a fault.

use std::fmt::Display;

use figment::value::{Dict, Num, Value};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

/// One value that does not fit its type.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Keys from the value that was read down to the fault, innermost first.
    reversed_path: Vec<String>,
    /// What does not fit.
    pub(crate) kind: FaultKind,
}

/// The ways a value does not fit.
#[derive(Debug)]
pub(crate) enum FaultKind {
    /// The last key of the path is not one of `allowed`.
    UnknownKey { allowed: &'static [&'static str] },
    /// The table at the path lacks a key.
    MissingKey { key: &'static str },
    /// The value at the path has the wrong type or lies outside its range.
    Unexpected { expected: String },
    /// The value at the path was refused with a reason.
    Refused { reason: String },
}

impl Fault {
    /// Returns the keys from the value that was read down to the fault.
    pub(crate) fn path(&self) -> Vec<String> {
        self.reversed_path.iter().rev().cloned().collect()
    }

    fn new(kind: FaultKind) -> Self {
        Self { reversed_path: Vec::new(), kind }
    }

    fn inside(mut self, key: &str) -> Self {
        self.reversed_path.push(key.to_owned());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(reason: T) -> Self {
        Self::new(FaultKind::Refused { reason: reason.to_string() })
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(FaultKind::Unexpected { expected: expected.to_string() })
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(FaultKind::Unexpected { expected: expected.to_string() })
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(FaultKind::Unexpected { expected: expected.to_string() })
    }

    fn unknown_variant(_: &str, allowed: &'static [&'static str]) -> Self {
        let names: Vec<String> = allowed.iter().map(|name| format!("`{name}`")).collect();
        Self::new(FaultKind::Unexpected { expected: format!("one of {}", names.join(", ")) })
    }

    fn unknown_field(_: &str, allowed: &'static [&'static str]) -> Self {
        Self::new(FaultKind::UnknownKey { allowed })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(FaultKind::MissingKey { key })
    }
}

/// Deserializes from a merged value.
#[derive(Clone, Copy)]
pub(crate) struct Typed<'a>(pub(crate) &'a Value);

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(_, text) => visitor.visit_str(text),
            Value::Char(_, letter) => visitor.visit_char(*letter),
            Value::Bool(_, flag) => visitor.visit_bool(*flag),
            Value::Num(_, number) => visit_number(*number, visitor),
            Value::Empty(..) => visitor.visit_unit(),
            Value::Dict(_, table) => visitor.visit_map(Entries { rest: table.iter(), value: None }),
            Value::Array(_, items) => visit_list(items, visitor),
        }
    }

    /// Only a table is a struct: serde's structs would also take the values of a list for their
    /// fields, in an order that nobody has promised.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Dict(..) => self.deserialize_any(visitor),
            _ => Err(Fault::new(FaultKind::Unexpected { expected: "a table".to_owned() })),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Empty(..) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let single = |table: &Dict| table.len() == 1;
        match self.0 {
            Value::String(_, name) => visitor.visit_enum(name.as_str().into_deserializer()),
            Value::Dict(_, table) if single(table) => match table.iter().next() {
                Some((name, content)) => visitor.visit_enum(Variant { name, content }),
                None => Err(de::Error::unknown_variant("", variants)),
            },
            _ => Err(de::Error::unknown_variant("", variants)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: Num, visitor: V) -> Result<V::Value, Fault> {
    match (number.to_u128(), number.to_i128(), number.to_f64()) {
        (Some(n), ..) if u64::try_from(n).is_ok() => visitor.visit_u64(n as u64),
        (_, Some(n), _) if i64::try_from(n).is_ok() => visitor.visit_i64(n as i64),
        (.., Some(x)) => visitor.visit_f64(x),
        _ => Err(de::Error::custom("does not fit in 64 bits")),
    }
}

/// Hands over a list and checks that nothing of it was left unread, as by a type of fewer items.
fn visit_list<'de, V: Visitor<'de>>(list: &[Value], visitor: V) -> Result<V::Value, Fault> {
    let mut items = Items { rest: list.iter().enumerate() };
    let value = visitor.visit_seq(&mut items)?;
    let read = list.len() - items.rest.len();
    if read == list.len() {
        return Ok(value);
    }
    Err(Fault::new(FaultKind::Unexpected { expected: format!("a list of {read}") }))
}

struct Entries<'a> {
    rest: std::collections::btree_map::Iter<'a, String, Value>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        let name = key.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|fault: Fault| fault.inside(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (key, value) = self.value.take().expect("serde asks for a value only after its key");
        seed.deserialize(Typed(value)).map_err(|fault| fault.inside(key))
    }
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, item)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Typed(item)).map(Some).map_err(|fault| fault.inside(&index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Variant<'a> {
    name: &'a str,
    content: &'a Value,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Fault> {
        let name = seed.deserialize(self.name.into_deserializer())?;
        Ok((name, Content(self)))
    }
}

struct Content<'a>(Variant<'a>);

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let expected = format!("the name `{}` alone", self.0.name);
        Err(Fault::new(FaultKind::Unexpected { expected }))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(Typed(self.0.content)).map_err(|fault| fault.inside(self.0.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        Typed(self.0.content).deserialize_any(visitor).map_err(|fault| fault.inside(self.0.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        Typed(self.0.content)
            .deserialize_struct("", fields, visitor)
            .map_err(|fault| fault.inside(self.0.name))
    }
}
