//! The pages of the service: the list of runs, one run, and the login form, with their style and scripts.
//!
//! The pages contain no data of runs; the scripts load it from the API.

mod layout;
mod login;
mod run;
mod runs;

pub use login::login_page;
pub use run::run_page;
pub use runs::runs_page;

/// The facts of the service that the pages depend on.
#[derive(Clone, Copy, Debug)]
pub struct PageFacts {
    /// The SIZE of a run that does not set it.
    pub default_size: u64,
    /// The largest SIZE that is accepted.
    pub max_tokens: Option<u64>,
    /// True if a run can go on without an open request.
    pub can_run_async: bool,
    /// True if the pages need a session.
    pub has_login: bool,
    /// True if the reports of ended runs are kept.
    pub keeps_reports: bool,
}

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The files below `/assets/`: name, content type and content.
pub const ASSETS: [(&str, &str, &str); 4] = [
    ("pages.css", CSS, include_str!("pages.css")),
    ("api.js", JAVASCRIPT, include_str!("api.js")),
    ("runs.js", JAVASCRIPT, include_str!("runs.js")),
    ("run.js", JAVASCRIPT, include_str!("run.js")),
];

/// Returns the content type and the content of the asset with this name.
pub fn asset(name: &str) -> Option<(&'static str, &'static str)> {
    let asset = ASSETS.iter().find(|(own, _, _)| *own == name)?;
    Some((asset.1, asset.2))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FACTS: PageFacts = PageFacts {
        default_size: 5,
        max_tokens: Some(10_000),
        can_run_async: true,
        has_login: true,
        keeps_reports: true,
    };

    fn pages() -> [String; 3] {
        [
            runs_page(&FACTS),
            run_page("0197-a", &FACTS),
            login_page(true),
        ]
    }

    #[test]
    fn pages_contain_neither_inline_scripts_nor_inline_styles() {
        for page in pages() {
            for forbidden in [
                "<style",
                " style=",
                " onclick=",
                " onsubmit=",
                "javascript:",
            ] {
                assert!(!page.contains(forbidden), "{forbidden}: {page}");
            }
            let scripts = page.matches("<script").count();
            let files = page
                .matches("<script type=\"module\" src=\"/assets/")
                .count();
            assert_eq!(scripts, files, "{page}");
        }
    }

    #[test]
    fn every_asset_that_a_page_or_a_script_names_exists() {
        let mut names = BTreeSet::new();
        for page in pages() {
            let links = page.split("\"/assets/").skip(1);
            names.extend(links.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
        for (_, _, content) in ASSETS {
            let imports = content.split("from \"./").skip(1);
            names.extend(imports.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
        assert_eq!(names.len(), ASSETS.len(), "{names:?}");
        for name in names {
            assert!(asset(&name).is_some(), "{name}");
        }
        assert_eq!(asset("../mod.rs"), None);
    }

    #[test]
    fn id_is_escaped_in_text_and_addresses() {
        let page = run_page("\"><b>/../x", &FACTS);
        assert!(!page.contains("<b>"), "{page}");
        let address = "/v1/runs/%22%3E%3Cb%3E%2F%2E%2E%2Fx/report?format=csv";
        assert!(page.contains(address), "{page}");
    }

    #[test]
    fn hint_names_largest_size() {
        assert!(runs_page(&FACTS).contains("A whole number from 1 to 10,000"));
        let unlimited = PageFacts {
            max_tokens: None,
            ..FACTS
        };
        assert!(runs_page(&unlimited).contains("A whole number of at least 1"));
    }

    #[test]
    fn pages_have_the_colors_of_the_html_report() {
        let colors = |css: &'static str| -> Vec<&str> {
            let lines = css.lines().map(str::trim);
            lines.filter(|line| line.starts_with("--")).collect()
        };
        let report = colors(include_str!("../../../report/html/page.css"));
        let pages = colors(include_str!("pages.css"));
        for line in &report {
            assert!(pages.contains(line), "pages.css lacks {line}");
        }
        assert!(report.len() >= 6, "{report:?}");
    }
}
