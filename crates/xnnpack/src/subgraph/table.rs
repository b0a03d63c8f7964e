//! Tables of a FlatBuffer from structs: one macro line a table, fields in the schema's order.

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, UnionWIPOffset, VOffsetT, WIPOffset};

/// What a table is once written.
pub type Offset = WIPOffset<TableFinishedWIPOffset>;
/// The builder, with data owned.
pub type Builder = FlatBufferBuilder<'static>;

/// The place of field number `i` in a table's directory.
pub fn slot(i: usize) -> VOffsetT {
    VOffsetT::try_from(4 + 2 * i).expect("a table has few fields")
}

/// A value that can be a field. Vectors are written before their table starts: `prepare`, then `push`.
pub trait Field {
    /// What is kept between the two.
    type Ready;
    /// Writes what lies outside the table.
    fn prepare(&self, b: &mut Builder) -> Self::Ready;
    /// Writes the field itself.
    fn push(ready: Self::Ready, slot: VOffsetT, b: &mut Builder);
    /// Reads it back.
    #[cfg(test)]
    fn read(t: super::read::Table<'_>, field: usize) -> Self;
}

macro_rules! scalar_field { ($($t:ty, $get:ident);*) => { $(
    impl Field for $t {
        type Ready = $t;
        fn prepare(&self, _: &mut Builder) -> $t {
            *self
        }
        fn push(ready: $t, slot: VOffsetT, b: &mut Builder) {
            b.push_slot(slot, ready, <$t>::default());
        }
        #[cfg(test)]
        fn read(t: super::read::Table<'_>, field: usize) -> $t {
            t.$get(field)
        }
    }
)* } }
scalar_field! { u32, u32; f32, f32 }

impl Field for Vec<u32> {
    type Ready = WIPOffset<flatbuffers::Vector<'static, u32>>;
    fn prepare(&self, b: &mut Builder) -> Self::Ready {
        b.create_vector(self)
    }
    fn push(ready: Self::Ready, slot: VOffsetT, b: &mut Builder) {
        b.push_slot_always(slot, ready);
    }
    #[cfg(test)]
    fn read(t: super::read::Table<'_>, field: usize) -> Self {
        t.u32s(field)
    }
}

/// A struct that is written as a table.
pub trait Write {
    /// Writes it.
    fn write(&self, b: &mut Builder) -> WIPOffset<UnionWIPOffset>;
    /// Reads it back.
    #[cfg(test)]
    fn read(t: super::read::Table<'_>) -> Self;
}

/// Declares structs that are tables, each with its fields in the schema's order.
macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident { $($field:ident : $t:ty),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(missing_docs)] // fields are named as in the schema
        pub struct $name { $(pub $field: $t),* }
        impl $crate::subgraph::table::Write for $name {
            fn write(
                &self,
                b: &mut $crate::subgraph::table::Builder,
            ) -> flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset> {
                use $crate::subgraph::table::{Field, slot};
                $(let $field = self.$field.prepare(b);)*
                let start = b.start_table();
                let mut field = 0;
                $(<$t as Field>::push($field, slot(field), b); field += 1;)*
                let _ = field;
                b.end_table(start).as_union_value()
            }
            #[cfg(test)]
            fn read(t: $crate::subgraph::read::Table<'_>) -> Self {
                use $crate::subgraph::table::Field;
                let mut fields = 0..;
                let mut next = || fields.next().expect("numbers do not end");
                $name { $($field: <$t as Field>::read(t, next())),* }
            }
        }
    )* };
}
pub(super) use tables;

/// Declares an enum that is a union of tables, each with its number in the schema.
macro_rules! union {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $tag:literal $variant:ident($t:ty)),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $(#[doc = concat!("`XNN", stringify!($variant), "`")] $(#[$vmeta])* $variant($t)),* }
        impl $name {
            /// Its number in the schema's union.
            pub fn tag(&self) -> u8 {
                match self { $($name::$variant(_) => $tag),* }
            }
            /// Its name in the schema, without the prefix.
            pub fn name(&self) -> &'static str {
                match self { $($name::$variant(_) => stringify!($variant)),* }
            }
            pub(super) fn write(
                &self,
                b: &mut $crate::subgraph::table::Builder,
            ) -> flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset> {
                match self { $($name::$variant(t) => $crate::subgraph::table::Write::write(t, b)),* }
            }
            #[cfg(test)]
            pub(super) fn read(tag: u8, t: $crate::subgraph::read::Table<'_>) -> Self {
                match tag {
                    $($tag => $name::$variant(<$t as $crate::subgraph::table::Write>::read(t)),)*
                    _ => panic!("no {} has number {tag}", stringify!($name)),
                }
            }
        }
    };
}
pub(super) use union;
