//! Integration tests over the whole workspace.

mod architecture;
mod cases;
mod coreml;
mod coreml_quantizer;
mod coreml_weights;
mod debug;
mod decompose;
mod defects;
mod flow;
mod integers;
mod intx;
mod observers;
mod op_calls;
mod pt2e;
mod random_observers;
mod shape_rules;
mod side_by_side;
mod watching;
mod weights;
