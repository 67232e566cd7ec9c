//! Can this machine do it?

use std::process::ExitCode;

use anyhow::Result;
use kjump::doctor::{Finding, examine, is_ready};
use serde_json::json;

/// `kjump doctor`
pub(crate) fn run(as_json: bool) -> Result<ExitCode> {
    let findings = examine();
    let ready = is_ready(&findings);
    if as_json {
        println!("{:#}", to_json(&findings));
    } else {
        for finding in &findings {
            println!(
                "{:<9} {}: {}",
                finding.status.to_string(),
                finding.check,
                finding.detail
            );
            if let Some(remedy) = &finding.remedy {
                println!("{:<9} -> {remedy}", "");
            }
        }
        println!(
            "{}",
            if ready {
                "yes: this machine can hibernate"
            } else {
                "no: this machine cannot hibernate"
            }
        );
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
