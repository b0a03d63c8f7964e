//! The tables of an ExecuTorch program as plain values. Names and order are those of its schema (`program.fbs`, file
//! identifier `ET12`).

/// One value of an execution plan.
#[derive(Clone, Debug, PartialEq)]
pub enum EValue {
    /// An argument left out.
    Null,
    /// An integer; also the place of one that is computed.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A float.
    Double(f64),
    /// A tensor.
    Tensor(Tensor),
    /// A string.
    String(String),
    /// Numbers of integer values.
    IntList(Vec<i64>),
    /// Floats.
    DoubleList(Vec<f64>),
    /// Booleans.
    BoolList(Vec<bool>),
    /// Numbers of tensor values.
    TensorList(Vec<i32>),
    /// Numbers of tensor values, −1 for a hole.
    OptionalTensorList(Vec<i32>),
}

/// A tensor's type and memory.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// `c10::ScalarType` number.
    pub scalar_type: i8,
    /// Sizes; the largest ones for a dynamic shape.
    pub sizes: Vec<i32>,
    /// Number of the constant, or of the initial state; 0: none.
    pub data_buffer: u32,
    /// Offset in the planned memory; `None` for constants.
    pub offset: Option<u64>,
    /// Whether sizes may be smaller at run time.
    pub dynamic: bool,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// Calls operator number so-and-so with these values.
    Kernel {
        /// Operator.
        op: i32,
        /// Values.
        args: Vec<i32>,
    },
    /// Calls a delegate.
    Delegate {
        /// Delegate.
        delegate: i32,
        /// Inputs, then outputs.
        args: Vec<i32>,
    },
    /// Goes on somewhere else when a boolean is false.
    JumpFalse {
        /// The value.
        condition: i32,
        /// The instruction.
        to: i32,
    },
}

/// A delegate of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegate {
    /// Its name in the runtime.
    pub id: String,
    /// Its blob's segment.
    pub segment: u32,
    /// Keys and values handed to it.
    pub compile_specs: Vec<(String, Vec<u8>)>,
}

/// One method.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    /// `forward`
    pub name: String,
    /// All values.
    pub values: Vec<EValue>,
    /// Values the caller gives.
    pub inputs: Vec<i32>,
    /// Values the caller gets.
    pub outputs: Vec<i32>,
    /// In order.
    pub instructions: Vec<Instruction>,
    /// Kernel names and overloads.
    pub operators: Vec<(String, String)>,
    /// Delegates.
    pub delegates: Vec<Delegate>,
    /// Bytes of planned memory.
    pub memory: u64,
}

/// A whole file without its segments' bytes.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Program {
    /// The only method.
    pub plan: Plan,
    /// Offset and size of each segment.
    pub segments: Vec<(u64, u64)>,
    /// Segment of the constants, and the offset of each.
    pub constants: Option<(u32, Vec<u64>)>,
    /// Segment of initial states, and the offset of each.
    pub states: Option<(u32, Vec<u64>)>,
    /// Keys of named data, with their segments.
    pub named: Vec<(String, u32)>,
}
