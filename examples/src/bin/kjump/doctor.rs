//! Can this machine do it?

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use kjump::doctor::{Finding, examine, examine_image, is_ready};
use serde_json::json;

use crate::key::KeyOptions;
use crate::report::plain;

/// `kjump doctor`
pub(crate) fn run(as_json: bool, image: Option<&Path>, key: &KeyOptions) -> Result<ExitCode> {
    let (findings, verdicts) = match image {
        Some(image) => (
            examine_image(image, key.to_read(image)?.as_ref()),
            [
                "yes: this image can be resumed",
                "no: this image cannot be resumed",
            ],
        ),
        None => (
            examine(),
            [
                "yes: this machine can hibernate",
                "no: this machine cannot hibernate",
            ],
        ),
    };
    let ready = is_ready(&findings);
    if as_json {
        println!("{:#}", to_json(&findings));
    } else {
        for finding in &findings {
            println!(
                "{:<9} {}: {}",
                finding.status.to_string(),
                plain(&finding.check),
                plain(&finding.detail)
            );
            if let Some(remedy) = &finding.remedy {
                println!("{:<9} -> {remedy}", "");
            }
        }
        println!("{}", verdicts[usize::from(!ready)]);
    }
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn to_json(findings: &[Finding]) -> serde_json::Value {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "status": finding.status.to_string(),
                "detail": finding.detail,
                "remedy": finding.remedy,
            })
        })
        .collect();
    json!({ "ready": is_ready(findings), "findings": list })
}
