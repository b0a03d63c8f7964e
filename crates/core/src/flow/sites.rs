//! The table of quantized sites: what each is stored as, and its parameters.

use super::prepare::Prepared;
use crate::dtype::DType;
use crate::quant::{Granularity, QParams, QRange, Site, Spec};
use std::sync::Arc;

/// One quantized site.
#[derive(Clone, Debug)]
pub struct SiteParams {
    /// Name of the value.
    pub value: String,
    /// The node and operand that read it; `None` where it is quantized for all readers.
    pub user: Option<(String, u32)>,
    /// What it is stored as.
    pub spec: SiteSpec,
    /// Scales and zero points, shared by all sites of a group; `None` when the device chooses them at run time, and where there
    /// are none.
    pub params: Option<Arc<QParams>>,
    /// The observer's name.
    pub observer: String,
    /// How well the integers hold all but the outliers, in dB; see [`Observer::fit`](crate::quant::Observer::fit).
    pub fit: Option<f64>,
    /// The rule that annotated it.
    pub rule: String,
}

/// What a site is stored as.
#[derive(Copy, Clone, Debug)]
pub struct SiteSpec {
    /// The element type.
    pub dtype: DType,
    /// The integers; `None` for a floating-point type.
    pub range: Option<QRange>,
    /// What shares a scale, or a table.
    pub granularity: Granularity,
}

impl SiteSpec {
    fn integers(range: QRange, granularity: Granularity) -> Self {
        SiteSpec { dtype: range.dtype(), range: Some(range), granularity }
    }

    fn of(spec: &Spec) -> Option<Self> {
        Some(match spec {
            Spec::Observed(s) => Self::integers(s.range, s.scheme.granularity),
            Spec::Fixed(q) => Self::integers(q.range, q.granularity),
            Spec::Derived { range, scheme, .. } => Self::integers(*range, scheme.granularity),
            Spec::Cast(dtype) => SiteSpec { dtype: *dtype, range: None, granularity: Granularity::Tensor },
            Spec::Codebook(c) => {
                let range = QRange::new(DType::U8, 0, (1 << c.bits()) - 1).ok();
                SiteSpec { dtype: DType::U8, range, granularity: c.granularity() }
            }
            Spec::SharedWith(_) => return None,
        })
    }
}

/// Every site of every group, in the order of groups.
pub(super) fn site_table(p: &Prepared, params: &[Option<Arc<QParams>>]) -> Vec<SiteParams> {
    let mut rows = Vec::new();
    for (i, g) in p.groups.groups.iter().enumerate() {
        let Some(spec) = SiteSpec::of(&g.spec) else { continue };
        let observer = match (&g.spec, &p.observers[i]) {
            (Spec::Fixed(_), _) => "fixed",
            (Spec::Derived { .. }, _) => "derived",
            (Spec::Cast(_), _) => "cast",
            (Spec::Codebook(_), _) => "k-means",
            (_, Some(o)) => o.name(),
            _ => "none",
        };
        let fit = p.observers[i].as_ref().and_then(|o| o.fit());
        for &site in &g.sites {
            let Some(v) = site.value(&p.program) else { continue };
            let rule = p.annotations.get(site).map_or_else(|| g.rule.to_string(), |a| a.rule.to_string());
            rows.push(SiteParams {
                value: p.program.graph.value(v).name.to_string(),
                user: match site {
                    Site::Input(u) => Some((p.program.graph.node(u.node).name.to_string(), u.slot)),
                    Site::Output(_) => None,
                },
                spec,
                params: params[i].clone(),
                observer: observer.into(),
                fit,
                rule,
            });
        }
    }
    rows
}
