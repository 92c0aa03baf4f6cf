//! `cfs-dag pull`: images by their references. Knows what can be asked for; how it is done
//! is [`super::request`]'s.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueHint};

use super::{
    Exit, Problem, RepoArgs,
    files::Files,
    options::RunArgs,
    plan,
    request::{Request, tell_no_plan},
    session::Session,
};
use crate::{
    graph::Plan,
    pull::Asked,
    source::{Reference, Site},
    store::Tag,
};

/// Images and how to get them.
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// docker://HOST/NAME[:TAG][@DIGEST], oci:PATH[:NAME], oci-archive:PATH[:TAG],
    /// docker-archive:PATH[:NAME], dir:PATH, containers-storage:NAME
    #[arg(required_unless_present = "plan", conflicts_with = "plan", value_name = "IMAGE")]
    images: Vec<String>,
    /// Name in the repository for a single image [default: the reference]
    #[arg(long, value_name = "NAME", conflicts_with = "plan")]
    name: Option<String>,
    /// Save the plan for --plan; nothing is saved if an image cannot be resolved
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plan_out: Option<PathBuf>,
    /// Run exactly this plan; refused if a tag or the repository has changed since
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["force",
        "platform"])]
    plan: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &PullArgs, repo: &RepoArgs, verbose: bool) -> Result<Exit, Problem> {
    args.files().check()?;
    let planned = args.plan.as_deref().map(plan::read).transpose()?;
    let site = args.site(planned.as_ref())?;
    let platform = site.platform.as_ref().map(|platform| platform.to_string());
    let asked = args.asked(planned.as_ref(), &Arc::new(site))?;
    let session = Session::open(&args.run, repo, verbose)?;
    let request = session.resolve(asked).map(|resolution| Request {
        session: &session,
        resolution,
        planned: planned.as_ref(),
        plan_out: args.plan_out.clone(),
        platform,
        selections: Vec::new(),
        untag: Vec::new(),
        of_list: None,
        is_later: false,
    });
    let result = match (request, args.run.dry_run) {
        (Err(_), Some(_)) => Ok(tell_no_plan()),
        (Err(results), None) => results.tell(&session, false),
        (Ok(request), Some(format)) => request.show(format),
        (Ok(request), None) => request.run().and_then(|results| results.tell(&session, false)),
    };
    session.close();
    result
}

impl PullArgs {
    fn files(&self) -> Files<'_> {
        let mut files = self.run.files();
        files.read("the plan", self.plan.as_ref());
        files.write("--plan-out", self.plan_out.as_ref());
        files
    }

    fn site(&self, planned: Option<&Plan>) -> Result<Site, Problem> {
        let site = self.run.site();
        match planned.and_then(|plan| plan.platform.as_deref()) {
            Some(text) => {
                let platform = text.parse().map_err(|error| Problem::usage(format!("{text}: {error}")))?;
                Ok(Site { platform: Some(platform), ..site })
            }
            None => Ok(site),
        }
    }

    fn asked(&self, planned: Option<&Plan>, site: &Arc<Site>) -> Result<Vec<Asked>, Problem> {
        if self.name.is_some() && self.images.len() > 1 {
            return Err(Problem::usage("--name is for a single image: pull the others by themselves"));
        }
        let as_upstream = self.run.as_upstream;
        let ask = |(text, name): (&String, Option<&String>)| {
            let reference: Reference = text.parse().map_err(|error| Problem::usage(format!("{error}")))?;
            let name = name.map_or_else(|| reference.default_name().to_owned(), String::clone);
            Tag::new(&name).map_err(|error| Problem::usage(error.to_string()))?;
            Ok(Asked {
                reference,
                text: text.clone(),
                name,
                site: site.clone(),
                immutable: false,
                as_upstream,
            })
        };
        match planned {
            Some(plan) => {
                plan.images.iter().map(|image| ask((&image.reference, Some(&image.name)))).collect()
            }
            None => self.images.iter().map(|text| ask((text, self.name.as_ref()))).collect(),
        }
    }
}
