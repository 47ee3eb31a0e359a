//! The resolver against folders made by hand and against a hub on the loopback interface.

mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use server::{Behaviour, COMMIT, Server, etag, sha256};

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// A cache in a temporary folder and the settings to use it.
struct Place {
    dir: tempfile::TempDir,
    config: HubConfig,
}

impl Place {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = HubConfig {
            home: Some(dir.path().join("home")),
            cache: Some(dir.path().join("cache")),
            endpoint: endpoint.to_owned(),
            metadata_timeout: Duration::from_secs(5),
            download_timeout: Duration::from_secs(5),
            retries: 0,
            retry_delay: Duration::from_millis(1),
            ..HubConfig::default()
        };
        Self { dir, config }
    }

    fn offline() -> Self {
        let mut place = Self::new("http://127.0.0.1:9");
        place.config.offline = true;
        place
    }

    fn resolve(&self, path: &str) -> Result<Resolved, HubError> {
        self.resolve_as(path, None, Wanted::Model)
    }

    fn resolve_as(&self, path: &str, revision: Option<&str>, what: Wanted) -> Result<Resolved, HubError> {
        resolve(path, revision, what, &self.dir.path().join("recipe"), &self.config, &mut |_| {})
    }

    /// Resolves, and keeps the place as long as the folder is looked at.
    fn fetched(self, path: &str) -> (Self, PathBuf) {
        let dir = self.resolve(path).unwrap().dir;
        (self, dir)
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("cache/models--org--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    /// Makes `snapshots/<COMMIT>/<name>` link to a blob, and `refs/<revision>`.
    fn add_cached(&self, files: &[(&str, &[u8])]) {
        put(&self.repo().join("refs/main"), COMMIT.as_bytes());
        for (name, bytes) in files {
            put(&self.repo().join("blobs").join(etag(name, bytes)), bytes);
            let link = self.snapshot().join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(Path::new("../../blobs").join(etag(name, bytes)), link).unwrap();
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

fn index() -> Vec<u8> {
    format!(r#"{{"metadata":{{}},"weight_map":{{"a":"{0}","b":"{1}","c":"{0}"}}}}"#, SHARDS[0], SHARDS[1])
        .into_bytes()
}

/// Large enough that the client reads it in several pieces.
fn shard(seed: u8) -> Vec<u8> {
    (0..700_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn sharded_model() -> BTreeMap<String, Vec<u8>> {
    let files: [(&str, Vec<u8>); 10] = [
        ("config.json", b"{}".to_vec()),
        (INDEX, index()),
        (SHARDS[0], shard(1)),
        (SHARDS[1], shard(2)),
        ("tokenizer.json", b"{\"t\":1}".to_vec()),
        ("chat_template.jinja", b"{{ x }}".to_vec()),
        ("additional_chat_templates/tool_use.jinja", b"{{ y }}".to_vec()),
        ("pytorch_model.bin", b"never".to_vec()),
        ("original/consolidated.00.pth", b"never".to_vec()),
        (".gitattributes", b"never".to_vec()),
    ];
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn hub() -> Server {
    Server::start(Behaviour { files: sharded_model(), ..Behaviour::default() })
}

fn assert_whole(dir: &Path) {
    for (name, bytes) in sharded_model() {
        let unwanted =
            ["pytorch_model.bin", ".gitattributes"].contains(&name.as_str()) || name.starts_with("original");
        match fs::read(dir.join(&name)) {
            Ok(found) => assert!(found == bytes && !unwanted, "{name}"),
            Err(error) => assert!(unwanted, "{name}: {error}"),
        }
    }
}

fn cached_origin() -> Origin {
    Origin::Cache { repo: "org/name".into(), commit: COMMIT.into() }
}

fn downloaded_origin() -> Origin {
    Origin::Downloaded { repo: "org/name".into(), commit: COMMIT.into() }
}

#[test]
fn sharded_model_downloads_once() {
    let server = hub();
    let place = Place::new(&format!("{}/", server.endpoint));
    let mut planned = None;
    let mut done = Vec::new();
    let got = resolve("org/name", None, Wanted::Model, Path::new("/nowhere"), &place.config, &mut |event| {
        match event {
            HubEvent::Planned { files, bytes, .. } => planned = Some((files, bytes)),
            HubEvent::FileDone { file } => done.push(file.to_owned()),
            _ => {}
        }
    })
    .unwrap();
    assert_eq!(got.origin, downloaded_origin());
    assert_eq!(got.dir, place.snapshot());
    assert_whole(&got.dir);
    assert_eq!(planned, Some((6, Some(1_400_000 + 2 + 7 + 7 + 7))));
    assert_eq!(done.last().unwrap(), "config.json");
    assert_eq!(fs::read_to_string(place.repo().join("refs/main")).unwrap(), COMMIT);
    let nested = "additional_chat_templates/tool_use.jinja";
    let target = fs::read_link(got.dir.join(nested)).unwrap();
    assert_eq!(target, Path::new("../../../blobs").join(etag(nested, b"{{ y }}")));
    assert!(place.repo().join("blobs").join(sha256(&shard(1))).is_file());

    drop(server);
    assert_eq!(place.resolve("org/name").unwrap().origin, cached_origin());
    assert_eq!(place.resolve_as("org/name", Some(COMMIT), Wanted::Model).unwrap().origin, cached_origin());
}

#[test]
fn folders_of_modules_are_fetched() {
    let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]"#;
    let wanted: [(&str, &[u8]); 4] = [
        ("modules.json", modules.as_bytes()),
        ("1_Pooling/config.json", b"{}"),
        ("2_Dense/config.json", b"{\"in_features\": 4}"),
        ("2_Dense/model.safetensors", b"weights"),
    ];
    let unwanted = ["2_Dense/sub/x.json", "onnx/model.onnx", "1_Pooling/.cache"];
    let mut files = sharded_model();
    files.extend(wanted.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())));
    files.extend(unwanted.map(|name| (name.to_owned(), b"never".to_vec())));
    let server = Server::start(Behaviour { files, ..Behaviour::default() });
    let (_place, dir) = Place::new(&server.endpoint).fetched("org/name");
    for (name, bytes) in wanted {
        assert_eq!(fs::read(dir.join(name)).unwrap(), bytes, "{name}");
    }
    assert!(unwanted.iter().all(|name| !dir.join(name).exists()));
    // A list that cannot be read, or leads elsewhere, fetches nothing more.
    for bad in ["{", r#"[{"path": "../x"}]"#] {
        server.change(|b| drop(b.files.insert("modules.json".into(), bad.into())));
        let (_place, dir) = Place::new(&server.endpoint).fetched("org/name");
        assert!(dir.join("modules.json").exists() && !dir.join("1_Pooling").exists(), "{bad}");
    }
}

#[test]
fn private_model_needs_the_token_which_stays_with_the_hub() {
    let server = hub();
    server.change(|hub| hub.token = Some("hf_secret"));
    let mut place = Place::new(&server.endpoint);
    let error = place.resolve("org/name").unwrap_err();
    assert!(
        matches!(error, HubError::Refused { status: 401, with_token: false, gated: false, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("HF_TOKEN") && error.to_string().contains("recipe/org/name"),
        "{error}"
    );

    place.config.token = Token::Given(Secret::new("hf_wrong"));
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::Refused { with_token: true, .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hf_wrong"), "{error:?}");

    server.take_log();
    place.config.token = Token::Given(Secret::new("hf_secret\n"));
    assert_whole(&place.resolve("org/name").unwrap().dir);
    let log = server.take_log();
    assert!(log.iter().any(|line| line.contains("/storage/")));
    for line in log {
        assert_eq!(line.contains("hf_secret"), !line.contains("/storage/"), "{line}");
    }
}

#[test]
fn gated_model_says_where_to_agree() {
    let server = hub();
    server.change(|hub| hub.failures = vec!["403 Forbidden\r\nX-Error-Code: GatedRepo"]);
    let error = Place::new(&server.endpoint).resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 403, gated: true, .. }), "{error}");
    assert!(error.to_string().contains("accept the model's terms"), "{error}");
}

#[test]
fn unknown_model_and_unknown_revision() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    let error = place.resolve("org/other").unwrap_err();
    assert!(matches!(&error, HubError::NotFound { repo, .. } if repo == "org/other"), "{error}");
    assert!(error.to_string().contains("recipe/org/other"), "{error}");
    let error = place.resolve_as("org/name", Some("v9"), Wanted::Model).unwrap_err();
    assert!(matches!(&error, HubError::RevisionNotFound { revision, .. } if revision == "v9"), "{error}");
    assert!(!place.repo().exists());
}

#[test]
fn revision_with_a_slash() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    let first = place.resolve_as("org/name", Some("v1/x"), Wanted::Model).unwrap();
    assert_eq!(first.origin, downloaded_origin());
    assert_eq!(fs::read_to_string(place.repo().join("refs/v1/x")).unwrap(), COMMIT);
    drop(server);
    assert_eq!(place.resolve_as("org/name", Some("v1/x"), Wanted::Model).unwrap().origin, cached_origin());
}

#[test]
fn offline_opens_no_connection() {
    let server = hub();
    let mut place = Place::new(&server.endpoint);
    place.config.offline = true;
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::OfflineNotCached { tried, .. } if !tried.is_empty()), "{error}");
    place.add_cached(&[("config.json", b"{}"), (INDEX, &index()), (SHARDS[0], &shard(1))]);
    let error = place.resolve("org/name").unwrap_err();
    assert!(
        matches!(&error, HubError::OfflineIncomplete { missing, .. } if missing == &[SHARDS[1]]),
        "{error}"
    );
    assert!(server.take_log().is_empty());
}

#[test]
fn truncated_transfer_goes_on_in_the_next_run() {
    let server = hub();
    server.change(|hub| (hub.cut, hub.cuts) = (Some((SHARDS[1], 300_001)), 1));
    let mut place = Place::new(&server.endpoint);
    let error = place.resolve("org/name").unwrap_err();
    match &error {
        HubError::Interrupted { file, received: 300_001, expected: Some(700_000), .. } => {
            assert_eq!(file, SHARDS[1]);
        }
        _ => panic!("{error:?}"),
    }
    assert!(!place.repo().join("refs/main").exists());
    place.config.offline = true;
    let error = place.resolve_as("org/name", Some(COMMIT), Wanted::Model).unwrap_err();
    assert!(matches!(&error, HubError::OfflineIncomplete { missing, .. } if
            missing[..] == ["config.json", SHARDS[1]]));

    place.config.offline = false;
    server.take_log();
    assert_whole(&place.resolve("org/name").unwrap().dir);
    let log = server.take_log();
    let large: Vec<_> = log.iter().filter(|line| line.starts_with("GET /storage/")).collect();
    assert_eq!(large, [&format!("GET /storage/{}?sig=secret from=300001", SHARDS[1])]);
    assert!(
        fs::read_dir(place.repo().join("blobs"))
            .unwrap()
            .all(|blob| { !blob.unwrap().path().to_str().unwrap().ends_with(".incomplete") })
    );
}

#[test]
fn passing_failures_are_repeated_within_a_run() {
    let server = hub();
    server.change(|hub| {
        hub.failures =
            vec!["503 Service Unavailable\r\nRetry-After: 0", "429 Too Many Requests\r\nRetry-After: 0"];
        (hub.cut, hub.cuts) = (Some((SHARDS[0], 5)), 2);
    });
    let mut place = Place::new(&server.endpoint);
    place.config.retries = 2;
    let mut repeated = Vec::new();
    let got = resolve("org/name", None, Wanted::Model, Path::new("/"), &place.config, &mut |event| {
        if let HubEvent::Retrying { subject, error, .. } = event {
            repeated.push(format!("{subject}: {error}"));
        }
    });
    assert_whole(&got.unwrap().dir);
    assert_eq!(repeated.len(), 4, "{repeated:?}");
    assert!(repeated[0].contains("503") && repeated[3].starts_with(SHARDS[0]), "{repeated:?}");
}

#[test]
fn progress_renews_the_attempts() {
    let server = hub();
    server.change(|hub| (hub.cut, hub.cuts, hub.cut_step) = (Some((SHARDS[0], 100_000)), 6, 100_000));
    let mut place = Place::new(&server.endpoint);
    place.config.retries = 1;
    assert_whole(&place.resolve("org/name").unwrap().dir);
}

#[test]
fn refusal_by_the_storage_is_not_about_the_token() {
    let server = hub();
    server.change(|hub| hub.storage_failure = Some("403 Forbidden"));
    let error = Place::new(&server.endpoint).resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::Status { status: 403, .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn server_without_ranges_sends_all_again() {
    let server = hub();
    server.change(|hub| (hub.cut, hub.cuts) = (Some((SHARDS[0], 400_000)), 1));
    let place = Place::new(&server.endpoint);
    assert!(place.resolve("org/name").is_err());
    server.change(|hub| hub.ignore_range = true);
    assert_whole(&place.resolve("org/name").unwrap().dir);
}

#[test]
fn leftover_longer_than_the_file_is_dropped() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    put(&place.repo().join("blobs").join(sha256(&shard(1)) + ".incomplete"), &vec![7; 800_000]);
    assert_whole(&place.resolve("org/name").unwrap().dir);
}

#[test]
fn wrong_bytes_are_not_kept() {
    let server = hub();
    server.change(|hub| hub.corrupt = true);
    let place = Place::new(&server.endpoint);
    let error = place.resolve("org/name").unwrap_err();
    assert!(
        matches!(&error, HubError::HashMismatch { expected, .. } if *expected == sha256(&shard(1))),
        "{error}"
    );
    server.change(|hub| hub.corrupt = false);
    assert_whole(&place.resolve("org/name").unwrap().dir);
}

#[test]
fn leftover_with_wrong_bytes_is_found_out() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    put(&place.repo().join("blobs").join(sha256(&shard(1)) + ".incomplete"), &[7; 1000]);
    assert!(matches!(place.resolve("org/name"), Err(HubError::HashMismatch { .. })));
    assert_whole(&place.resolve("org/name").unwrap().dir);
}

#[test]
fn impossible_names_are_refused_before_any_connection() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    for bad in [
        "a/b/c",
        "",
        "org/name@",
        "org/name@main",
        "a b",
        "org/",
        "a\0b",
        "org/-x",
        "a--b",
        &"x".repeat(5000),
    ] {
        let error = place.resolve(bad).unwrap_err();
        assert!(matches!(error, HubError::BadReference { .. }), "{bad}: {error}");
    }
    for bad in ["../x", "./x", "/no/such/folder", "~/x", "~x"] {
        let error = place.resolve(bad).unwrap_err();
        assert!(matches!(error, HubError::NoSuchFolder { .. }), "{bad}: {error}");
    }
    for bad in ["", "a..b", "../../x", "a b"] {
        let error = place.resolve_as("org/name", Some(bad), Wanted::Model).unwrap_err();
        assert!(matches!(error, HubError::BadRevision { .. }), "{bad}: {error}");
    }
    assert!(server.take_log().is_empty());
}

#[test]
fn local_folders_come_first() {
    let mut place = Place::offline();
    let root = place.dir.path().to_owned();
    for dir in ["recipe/org/name", "home/models/x", "elsewhere", "recipe/a+b@c"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    put(&root.join("recipe/file.safetensors"), b"");
    let local = |path: &str| {
        let got = place.resolve(path).unwrap();
        assert_eq!(got.origin, Origin::Local);
        got.dir.canonicalize().unwrap()
    };
    let real = |path: &str| root.join(path).canonicalize().unwrap();
    assert_eq!(local("org/name"), real("recipe/org/name"));
    assert_eq!(local("../elsewhere"), real("elsewhere"));
    assert_eq!(local("a+b@c"), real("recipe/a+b@c"));
    assert_eq!(local("~/models/x"), real("home/models/x"));
    assert_eq!(local(root.join("elsewhere").to_str().unwrap()), real("elsewhere"));
    assert_eq!(local("src"), Path::new("src").canonicalize().unwrap());
    assert!(matches!(place.resolve("file.safetensors"), Err(HubError::NotAFolder { .. })));
    let error = place.resolve_as("org/name", Some("main"), Wanted::Model).unwrap_err();
    assert!(matches!(error, HubError::RevisionOfFolder { .. }), "{error}");
    place.config.home = None;
    assert!(matches!(place.resolve("~/models/x"), Err(HubError::NoHome { .. })));
    place.config.cache = None;
    assert!(matches!(place.resolve("org/other"), Err(HubError::NoCacheFolder { .. })));
}

#[test]
fn cached_snapshot_must_be_whole() {
    let place = Place::offline();
    place.add_cached(&[
        ("config.json", b"{}"),
        (INDEX, &index()),
        (SHARDS[0], &shard(1)),
        (SHARDS[1], &shard(2)),
    ]);
    assert_eq!(place.resolve("org/name").unwrap().dir, place.snapshot());

    fs::remove_file(place.repo().join("blobs").join(sha256(&shard(2)))).unwrap();
    let error = place.resolve("org/name").unwrap_err();
    assert!(
        matches!(&error, HubError::OfflineIncomplete { missing, .. } if missing == &[SHARDS[1]]),
        "{error}"
    );

    fs::remove_file(place.repo().join("blobs").join(etag(INDEX, &index()))).unwrap();
    put(&place.snapshot().join("model.safetensors"), b"another kind of upload");
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::OfflineIncomplete { missing, .. } if missing == &[INDEX]), "{error}");
}

#[test]
fn cached_single_file_and_adapter() {
    let place = Place::offline();
    place.add_cached(&[("config.json", b"{}"), ("pytorch_model.bin", b"w")]);
    assert_eq!(place.resolve("org/name").unwrap().origin, cached_origin());
    let adapter = |place: &Place| place.resolve_as("org/name", None, Wanted::Adapter);
    match adapter(&place).unwrap_err() {
        HubError::OfflineIncomplete { missing, .. } => {
            assert_eq!(missing, ["adapter_config.json", "adapter_model.safetensors, adapter_model.bin"]);
        }
        error => panic!("{error}"),
    }
    place.add_cached(&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"a")]);
    assert_eq!(adapter(&place).unwrap().origin, cached_origin());
}

#[test]
fn broken_refs_and_indexes() {
    let place = Place::offline();
    put(&place.repo().join("refs/main"), b"../../../etc");
    assert!(matches!(place.resolve("org/name"), Err(HubError::OfflineNotCached { .. })));
    put(&place.repo().join("refs/main"), format!("{COMMIT}\n").as_bytes());
    for bad in
        [&b"{"[..], br#"{"weight_map":{}}"#, br#"{"weight_map":{"a":"../../x"}}"#, br#"{"weight_map":[1]}"#]
    {
        put(&place.snapshot().join("config.json"), b"{}");
        put(&place.snapshot().join(INDEX), bad);
        let error = place.resolve("org/name").unwrap_err();
        assert!(matches!(error, HubError::BadIndex { .. }), "{error}");
    }
}

#[test]
fn incomplete_snapshot_is_filled_up() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    place.add_cached(&[("config.json", b"{}"), (INDEX, &index()), (SHARDS[0], &shard(1))]);
    assert_whole(&place.resolve("org/name").unwrap().dir);
    let log = server.take_log();
    assert!(!log.iter().any(|line| line.contains(SHARDS[0]) || line.contains("config.json")), "{log:?}");
}

#[test]
fn renamed_repository_is_followed() {
    let server = hub();
    server.change(|hub| (hub.renamed, hub.token) = (true, Some("hf_t")));
    let mut place = Place::new(&server.endpoint);
    place.config.token = Token::Given(Secret::new("hf_t"));
    assert_eq!(place.resolve("org/name").unwrap().dir, place.snapshot());
    assert_whole(&place.snapshot());
}

#[test]
fn hostile_answers_stay_outside_the_cache() {
    let changes: [fn(&mut Behaviour); 6] = [
        |hub| hub.etag = Some("../../../x"),
        |hub| hub.etag = Some(""),
        |hub| hub.sha = Some("../../x"),
        |hub| hub.location = Some("file:///etc/passwd"),
        |hub| hub.location = Some("relative"),
        |hub| hub.failures = vec!["200 OK"],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let server = hub();
        server.change(change);
        let place = Place::new(&server.endpoint);
        let error = place.resolve("org/name").unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. }), "{number}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let server = hub();
    server.change(|hub| drop(hub.files.insert(INDEX.into(), br#"{"weight_map":{"a":"../x"}}"#.to_vec())));
    assert!(matches!(Place::new(&server.endpoint).resolve("org/name"), Err(HubError::BadIndex { .. })));
}

#[test]
fn uploads_without_usable_weights() {
    let server = hub();
    server.change(|hub| drop(hub.files.remove(SHARDS[1])));
    let error = Place::new(&server.endpoint).resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == SHARDS[1]), "{error}");
    server.change(|hub| drop(hub.files.remove("config.json")));
    let error = Place::new(&server.endpoint).resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == "config.json"), "{error}");
    server.change(|hub| hub.files = BTreeMap::from([("model.Q4.gguf".to_owned(), vec![])]));
    let error = Place::new(&server.endpoint).resolve("org/name").unwrap_err();
    assert!(matches!(&error, HubError::NoWeights { found, .. } if found == &["model.Q4.gguf"]), "{error}");
}

#[test]
fn adapter_downloads_two_files() {
    let server = hub();
    server.change(|hub| {
        for name in ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"] {
            hub.files.insert(name.to_owned(), name.as_bytes().to_vec());
        }
    });
    let place = Place::new(&server.endpoint);
    let got = place.resolve_as("org/name", None, Wanted::Adapter).unwrap();
    let mut names: Vec<_> = fs::read_dir(got.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn without_symlinks_the_snapshot_holds_files() {
    let server = hub();
    let mut place = Place::new(&server.endpoint);
    place.config.symlinks = false;
    let got = place.resolve("org/name").unwrap();
    assert_whole(&got.dir);
    assert!(!fs::symlink_metadata(got.dir.join(SHARDS[0])).unwrap().is_symlink());
}

#[test]
fn two_runs_at_once_share_the_work() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_whole(&place.resolve("org/name").unwrap().dir));
        }
    });
    let log = server.take_log();
    let times = log.iter().filter(|line| line.starts_with("GET") && line.contains(SHARDS[0]));
    assert_eq!(times.count(), 2, "one at the hub, one at the storage: {log:?}");
}

#[test]
fn dead_and_silent_hubs() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Place::new(&format!("http://127.0.0.1:{port}")).resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    let server = hub();
    server.change(|hub| hub.silent = true);
    let mut place = Place::new(&server.endpoint);
    place.config.metadata_timeout = Duration::from_millis(100);
    let start = std::time::Instant::now();
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_millis(1500));
    place.config.endpoint = "not an address".into();
    assert!(matches!(place.resolve("org/name"), Err(HubError::BadSetting { name: "HF_ENDPOINT", .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_named() {
    let server = hub();
    let place = Place::new(&server.endpoint);
    let incomplete = place.repo().join("blobs").join(sha256(&shard(1)) + ".incomplete");
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    // A device of length 0 that refuses every byte.
    std::os::unix::fs::symlink("/dev/full", &incomplete).unwrap();
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::DiskFull { .. }), "{error:?}");
}

#[test]
fn proxy_and_certificates_are_checked() {
    let server = hub();
    let mut place = Place::new(&server.endpoint);
    place.config.proxy = Some(Secret::new("gopher://user:pass@host"));
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::BadSetting { name: "HTTPS_PROXY", .. }), "{error}");
    assert!(!format!("{error:?}").contains("pass"), "{error:?}");
    place.config.proxy = Some(Secret::new("http://127.0.0.1:1"));
    assert!(matches!(place.resolve("org/name"), Err(HubError::Unreachable { .. })));
    place.config.no_proxy = Some("example.org, 127.0.0.1".into());
    let pem = place.dir.path().join("ca.pem");
    put(&pem, b"no certificate");
    place.config.ca_bundle = Some(pem);
    let error = place.resolve("org/name").unwrap_err();
    assert!(matches!(error, HubError::BadSetting { name: "REQUESTS_CA_BUNDLE", .. }), "{error}");
    place.config.ca_bundle = None;
    assert_whole(&place.resolve("org/name").unwrap().dir);
}
