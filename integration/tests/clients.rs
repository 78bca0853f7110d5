//! The S3 clients that people have, unmodified, against a pair whose primary changes under them.
//!
//! They come from Debian's packages (awscli, python3-boto3, rclone, restic, s3cmd); one that is not installed is
//! skipped with a line that says so.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use holdfast_agent::lab::cluster::Cluster;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_integration::promise;
use holdfast_integration::stage::{LIMIT, ensure};

/// What every script begins with: `$URL`, `$DIR` and the keys are in the environment.
const PRELUDE: &str = "set -euo pipefail\ncd \"$DIR\"\n";

const AWS: &str = r#"
s3() { aws --endpoint-url "$URL" --region us-east-1 --no-cli-pager "$@"; }
s3 s3 mb s3://aws-cli
s3 s3 cp large s3://aws-cli/large --no-progress
s3 s3 cp s3://aws-cli/large back --no-progress
cmp large back
s3 s3 sync tree s3://aws-cli/tree --no-progress
s3 s3 sync s3://aws-cli/tree tree-back --no-progress
diff -r tree tree-back
s3 s3 cp s3://aws-cli/large s3://aws-cli/copy --no-progress
s3 s3api head-object --bucket aws-cli --key copy | grep 20971520 > /dev/null
s3 s3api put-object --bucket aws-cli --key sum --body small --checksum-algorithm SHA256 | grep ChecksumSHA256 > /dev/null
curl -sf "$(s3 s3 presign s3://aws-cli/sum)" | cmp - small
s3 s3api put-bucket-versioning --bucket aws-cli --versioning-configuration Status=Enabled
s3 s3 rm s3://aws-cli/sum
s3 s3api list-object-versions --bucket aws-cli --prefix sum | grep '"IsLatest": true' > /dev/null
s3 s3api put-object-tagging --bucket aws-cli --key copy --tagging 'TagSet=[{Key=a,Value=b}]'
s3 s3api get-object-tagging --bucket aws-cli --key copy | grep '"Value": "b"' > /dev/null
"#;

const BOTO3: &str = r#"
python3 - <<'PY'
import os, hashlib, boto3
from botocore.config import Config
from botocore.exceptions import ClientError
s3 = boto3.client("s3", endpoint_url=os.environ["URL"], region_name="us-east-1",
                  config=Config(retries={"max_attempts": 10, "mode": "standard"}))
s3.create_bucket(Bucket="boto")
s3.upload_file("large", "boto", "large")
s3.download_file("boto", "large", "boto-back")
digest = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()
assert digest("large") == digest("boto-back")
for n in range(1200):
    s3.put_object(Bucket="boto", Key=f"many/{n:04}", Body=b"x" * 100)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket="boto", Prefix="many/")
assert sum(page["KeyCount"] for page in pages) == 1200
# Debian's release of the library does not know the parameter.
only_new = lambda params, **_: params["headers"].update({"If-None-Match": "*"})
s3.meta.events.register("before-call.s3.PutObject", only_new)
try:
    s3.put_object(Bucket="boto", Key="large", Body=b"")
    raise AssertionError("the condition did not hold anybody back")
except ClientError as e:
    assert e.response["ResponseMetadata"]["HTTPStatusCode"] == 412, e
s3.meta.events.unregister("before-call.s3.PutObject", only_new)
key = dict(SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32)
s3.put_object(Bucket="boto", Key="sealed", Body=b"secret", **key)
assert s3.get_object(Bucket="boto", Key="sealed", **key)["Body"].read() == b"secret"
keys = [{"Key": f"many/{n:04}"} for n in range(1000)]
assert len(s3.delete_objects(Bucket="boto", Delete={"Objects": keys})["Deleted"]) == 1000
PY
"#;

const RCLONE: &str = r#"
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_HF_TYPE=s3 RCLONE_CONFIG_HF_PROVIDER=Other RCLONE_CONFIG_HF_ENDPOINT="$URL"
export RCLONE_CONFIG_HF_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" RCLONE_CONFIG_HF_SECRET_ACCESS_KEY="$AWS_SECRET_ACCESS_KEY"
rclone mkdir hf:rclone
rclone sync tree hf:rclone/tree
rclone copy large hf:rclone --s3-upload-cutoff 5M --s3-chunk-size 5M
rclone check tree hf:rclone/tree --download
rclone check . hf:rclone --include large
rclone copy hf:rclone/tree rclone-back
diff -r tree rclone-back
rclone moveto hf:rclone/large hf:rclone/moved
rclone purge hf:rclone
"#;

const RESTIC_BEGIN: &str = r#"
export RESTIC_REPOSITORY="s3:$URL/restic" RESTIC_PASSWORD=a-password RESTIC_CACHE_DIR="$DIR/cache"
restic init -q
restic backup -q tree large
"#;

const RESTIC_END: &str = r#"
export RESTIC_REPOSITORY="s3:$URL/restic" RESTIC_PASSWORD=a-password RESTIC_CACHE_DIR="$DIR/cache"
echo changed > tree/changed
restic backup -q tree large
restic check -q --read-data
restic restore -q latest --target restored
diff -r tree restored/tree
cmp large restored/large
restic forget -q --keep-last 1 --prune
restic check -q
"#;

const S3CMD: &str = r#"
host=${URL#http://}
s3() { s3cmd -c /dev/null --access_key="$AWS_ACCESS_KEY_ID" --secret_key="$AWS_SECRET_ACCESS_KEY" --no-ssl \
  --host="$host" --host-bucket="$host" --region=us-east-1 --no-progress "$@"; }
s3 mb s3://s3cmd
s3 put large s3://s3cmd/large --multipart-chunk-size-mb=5
s3 get s3://s3cmd/large s3cmd-back
cmp large s3cmd-back
s3 sync tree/ s3://s3cmd/tree/
s3 ls -r s3://s3cmd | grep tree/deep/er/file > /dev/null
s3 info s3://s3cmd/large
s3 setacl s3://s3cmd/large --acl-public
curl -sf "$URL/s3cmd/large" | cmp - large
s3 del -r -f s3://s3cmd
s3 rb s3://s3cmd
"#;

/// A directory with something of everything.
fn stock(dir: &Path) -> Result<()> {
    let pattern = |len: usize| (0..len).map(|n| (n * n % 251) as u8).collect::<Vec<u8>>();
    fs::write(dir.join("large"), pattern(20 << 20))?;
    fs::write(dir.join("small"), "small\n")?;
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("deep/er"))?;
    fs::write(tree.join("deep/er/file"), pattern(70_000))?;
    fs::write(tree.join("with space & ümlaut"), "x")?;
    fs::write(tree.join("empty"), "")?;
    for n in 0..40 {
        fs::write(tree.join(format!("file-{n}")), pattern(n * 1000))?;
    }
    Ok(())
}

/// Whether the program is here; says so if it is not.
fn installed(program: &str) -> bool {
    let there = Path::new("/usr/bin").join(program).exists();
    let boto = || Command::new("/usr/bin/python3").args(["-c", "import boto3"]).output();
    let there = if program == "boto3" { boto().is_ok_and(|o| o.status.success()) } else { there };
    if !there {
        // Past the harness, which keeps what a test that passes says.
        let _ = writeln!(std::io::stderr(), "skipped: {program} is not installed");
    }
    there
}

fn run(cluster: &Cluster, dir: &Path, script: &str) -> Result<()> {
    let target = cluster.target("unused");
    let script = format!("{PRELUDE}{script}");
    let dir: PathBuf = dir.to_owned();
    let output: std::io::Result<Output> = cluster.client()?.run(|| {
        Command::new("timeout")
            .args(["--kill-after=5", "120", "bash", "-c", &script])
            // Nothing of the machine's own settings: proxies, profiles, authorities.
            .env_clear()
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &dir)
            .env("DIR", &dir)
            .env("URL", &target.endpoint)
            .env("AWS_ACCESS_KEY_ID", &target.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &target.secret_key)
            .env("AWS_MAX_ATTEMPTS", "10")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
    })?;
    let output = output.context("start bash")?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let tail: Vec<&str> = said.lines().rev().take(30).collect();
    bail!("{}: {}", output.status, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

#[test]
fn clients_that_people_have_store_and_restore_everything() {
    promise(ClusterSpec::default(), |cluster| {
        cluster.wait_in_sync(LIMIT)?;
        for (program, script) in [("aws", AWS), ("boto3", BOTO3), ("rclone", RCLONE), ("s3cmd", S3CMD)] {
            if installed(program) {
                let dir = tempfile::tempdir()?;
                stock(dir.path())?;
                run(cluster, dir.path(), script).with_context(|| format!("{program} failed"))?;
            }
        }
        if installed("restic") {
            let dir = tempfile::tempdir()?;
            stock(dir.path())?;
            run(cluster, dir.path(), RESTIC_BEGIN).context("restic failed before the switchover")?;
            let before = cluster.wait_for_primary(LIMIT)?;
            let after = cluster.switch_over(LIMIT)?;
            ensure(before != after, || format!("{before} is still primary"))?;
            run(cluster, dir.path(), RESTIC_END).context("restic failed after the switchover")?;
        }
        Ok(())
    });
}
