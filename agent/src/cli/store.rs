//! `holdfast store`: users, buckets and space, through the API of the agent on this host.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::args::{BucketsCommand, StoreArgs, StoreCommand, UsersCommand};
use super::client::{Client, shaped};
use super::{say, say_json, store_view};
use crate::runtime::scrub::ScrubStatus;
use crate::runtime::space::SpaceStatus;

/// The longest secret that is read from standard input, in bytes.
const MAX_SECRET_BYTES: u64 = 1024;

const USERS: &str = "/api/store/users";
const BUCKETS: &str = "/api/store/buckets";
const SCRUB: &str = "/api/store/scrub";
const SPACE: &str = "/api/store/space";

pub(super) fn run(args: StoreArgs) -> Result<ExitCode> {
    let client = Client::new(&args.api)?;
    let (answer, words): (Value, fn(Value) -> Result<String>) = match args.command {
        StoreCommand::Users { command } => users(&client, command)?,
        StoreCommand::Buckets { command } => buckets(&client, command)?,
        StoreCommand::Scrub { now: true } => (client.order(&format!("{SCRUB}/start"), json!({}))?, message),
        StoreCommand::Scrub { now: false } => {
            (client.get(SCRUB)?, |answer| Ok(store_view::scrub(&shaped::<ScrubStatus>(answer)?)))
        }
        StoreCommand::Space => {
            (client.get(SPACE)?, |answer| Ok(store_view::space(&shaped::<SpaceStatus>(answer)?)))
        }
        StoreCommand::Reclaim => (client.order(&format!("{SPACE}/reclaim"), json!({}))?, message),
    };
    if args.api.json {
        say_json(&answer)?;
    } else {
        say(&words(answer)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

type Shown = (Value, fn(Value) -> Result<String>);

fn users(client: &Client, command: UsersCommand) -> Result<Shown> {
    let one = |answer| Ok((answer, one_user as fn(Value) -> Result<String>));
    let made = |answer| Ok((answer, made_key as fn(Value) -> Result<String>));
    let at = |name: &str| format!("{USERS}/{}", escaped(name));
    match command {
        UsersCommand::List => {
            Ok((client.get(USERS)?, |answer| Ok(store_view::users(&shaped::<Vec<_>>(answer)?))))
        }
        UsersCommand::Show { name } => one(client.get(&at(&name))?),
        UsersCommand::Create { name, access, creates_buckets, tenant, description, email, access_key } => {
            let mut body = json!({
                "name": name,
                "description": description,
                "creates_buckets": creates_buckets,
                "tenant": tenant,
                "email": email,
                "bucket_access": bucket_access(&access)?,
            });
            if let Some(id) = access_key {
                body["access_key"] = id.into();
                body["secret_key"] = secret_of_stdin()?.into();
            }
            made(client.order(USERS, body)?)
        }
        UsersCommand::Access { name, access } => {
            let body = json!({"bucket_access": bucket_access(&access)?});
            one(client.change(Method::PUT, &format!("{}/buckets", at(&name)), body)?)
        }
        UsersCommand::Enable { name } => {
            one(client.change(Method::PATCH, &at(&name), json!({"enabled": true}))?)
        }
        UsersCommand::Disable { name } => {
            one(client.change(Method::PATCH, &at(&name), json!({"enabled": false}))?)
        }
        UsersCommand::CreateKey { name } => made(client.order(&format!("{}/keys", at(&name)), json!({}))?),
        UsersCommand::RemoveKey { name, id } => {
            let path = format!("{}/keys/{}", at(&name), escaped(&id));
            one(client.change(Method::DELETE, &path, json!({}))?)
        }
        UsersCommand::Remove { name } => Ok((client.change(Method::DELETE, &at(&name), json!({}))?, message)),
    }
}

fn buckets(client: &Client, command: BucketsCommand) -> Result<Shown> {
    let at = |name: &str| format!("{BUCKETS}/{}", escaped(name));
    let one: fn(Value) -> Result<String> = |answer| Ok(store_view::buckets(&[shaped(answer)?]));
    match command {
        BucketsCommand::List => {
            Ok((client.get(BUCKETS)?, |answer| Ok(store_view::buckets(&shaped::<Vec<_>>(answer)?))))
        }
        BucketsCommand::Quota { name, bytes: None, objects: None } => {
            bail!(
                "say how much: holdfast store buckets quota {name} --bytes N, --objects N, or both; 0 takes a limit away"
            )
        }
        BucketsCommand::Quota { name, bytes, objects } => {
            let body = json!({"quota_bytes": bytes, "quota_objects": objects});
            Ok((client.change(Method::PATCH, &at(&name), body)?, one))
        }
        BucketsCommand::Owner { name, owner } => {
            let owner = if owner == "root" { "" } else { owner.as_str() };
            Ok((client.change(Method::PATCH, &at(&name), json!({"owner": owner}))?, one))
        }
    }
}

fn message(answer: Value) -> Result<String> {
    Ok(format!("{}\n", answer["message"].as_str().unwrap_or_default()))
}

fn one_user(answer: Value) -> Result<String> {
    Ok(store_view::users(&[shaped(answer)?]))
}

fn made_key(answer: Value) -> Result<String> {
    Ok(store_view::made_key(&shaped(answer)?))
}

/// A name as a part of a path.
pub(super) fn escaped(name: &str) -> String {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    name.bytes().map(|b| if good(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn bucket_access(given: &[String]) -> Result<Vec<Value>> {
    given
        .iter()
        .map(|text| match text.rsplit_once(':') {
            Some((bucket, permission @ ("read" | "write" | "readwrite"))) => {
                Ok(json!({"bucket": bucket, "permission": permission}))
            }
            _ => bail!("{text:?} is not BUCKET:read, BUCKET:write or BUCKET:readwrite"),
        })
        .collect()
}

fn secret_of_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_SECRET_BYTES)
        .read_to_string(&mut text)
        .context("standard input cannot be read")?;
    let secret = text.trim();
    if secret.is_empty() {
        bail!("give the secret of that access key on standard input: holdfast store users create ... < FILE");
    }
    Ok(secret.to_owned())
}
