//! States: what a model keeps from run to run.

use super::{Table, kept};
use crate::raise::Value;

pub static TABLE: Table = &[
    kept("read_state", |c| {
        let state = c.state("input")?;
        let held = c.r.states.iter().find(|(s, _)| *s == state).map(|(_, v)| *v);
        Ok(vec![held.ok_or("there is no such state")?.into()])
    }),
    kept("write_state", |c| write(c, "input", "data").map(|_| vec![])),
    kept("coreml_update_state", |c| Ok(vec![write(c, "state", "value")?])),
];

/// What the state holds from here on.
fn write(c: &mut crate::raise::call::Call<'_>, state: &str, data: &str) -> Result<Value, String> {
    let (state, v) = (c.state(state)?, c.tensor(data)?);
    let have = c.ty(v).clone();
    let kept = c.ty(c.r.program.constants[state].value);
    if have != *kept {
        return Err(format!("argument {data} is {have}, the state is {kept}"));
    }
    for held in c.r.states.iter_mut().filter(|(s, _)| *s == state) {
        held.1 = v;
    }
    Ok(v.into())
}
