//! The crate `object_store`, through which vaults are kept in `az://`: create-only puts, parts, ranges, lists.

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{
    Attribute, Attributes, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, UpdateVersion, azure::MicrosoftAzureBuilder,
    path::Path,
};

use crate::server::Server;

fn store(server: &Server) -> impl ObjectStore {
    server.container("vault");
    MicrosoftAzureBuilder::new()
        .with_account("acct")
        .with_access_key(&server.keys["acct"])
        .with_container_name("vault")
        .with_endpoint(format!("http://{}/acct", server.address))
        .with_allow_http(true)
        .build()
        .expect("a store")
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work);
}

#[test]
fn objects_are_put_once_read_in_ranges_listed_and_deleted() {
    let server = Server::start();
    let store = store(&server);
    run(async move {
        let path = Path::from("packs/ab/1");
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = store.put_opts(&path, PutPayload::from_static(b"hello"), create.clone()).await;
        let first = put.expect("puts");
        let again = store.put_opts(&path, PutPayload::from_static(b"other"), create).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        let found = store.get(&path).await.expect("gets");
        assert_eq!((found.meta.size, found.meta.e_tag.clone()), (5, first.e_tag.clone()));
        assert_eq!(&found.bytes().await.expect("reads")[..], b"hello");
        assert_eq!(&store.get_range(&path, 1..3).await.expect("reads")[..], b"el");
        let ranges = store.get_ranges(&path, &[0..1, 4..5]).await.expect("reads");
        assert_eq!((&ranges[0][..], &ranges[1][..]), (&b"h"[..], &b"o"[..]));
        let from = GetOptions { range: Some(GetRange::Offset(3)), ..GetOptions::default() };
        let end = store.get_opts(&path, from).await.expect("reads").bytes().await;
        assert_eq!(&end.expect("reads")[..], b"lo");
        let same = GetOptions { if_none_match: first.e_tag.clone(), ..GetOptions::default() };
        let unchanged = store.get_opts(&path, same).await;
        assert!(matches!(unchanged, Err(Error::NotModified { .. })), "{unchanged:?}");
        // An update of what is still the same, and of what is not.
        let update = |e_tag| PutOptions {
            mode: PutMode::Update(UpdateVersion { e_tag, version: None }),
            ..PutOptions::default()
        };
        let new = || PutPayload::from_static(b"new");
        store.put_opts(&path, new(), update(first.e_tag.clone())).await.expect("updates");
        let late = store.put_opts(&path, new(), update(first.e_tag)).await;
        assert!(matches!(late, Err(Error::Precondition { .. })), "{late:?}");
        for name in ["packs/ab/2", "packs/cd/3", "index/1"] {
            store.put(&Path::from(name), new()).await.expect("puts");
        }
        let prefix = Path::from("packs");
        let mut all: Vec<_> = store.list(Some(&prefix)).try_collect().await.expect("lists");
        all.sort_by(|a, b| a.location.cmp(&b.location));
        let names: Vec<_> = all.iter().map(|meta| meta.location.to_string()).collect();
        assert_eq!(names, ["packs/ab/1", "packs/ab/2", "packs/cd/3"]);
        let level = store.list_with_delimiter(Some(&prefix)).await.expect("lists");
        assert_eq!((level.objects.len(), level.common_prefixes.len()), (0, 2));
        store.copy(&path, &Path::from("copy")).await.expect("copies");
        let twice = store.copy_if_not_exists(&path, &Path::from("copy")).await;
        assert!(matches!(twice, Err(Error::AlreadyExists { .. })), "{twice:?}");
        store.rename(&Path::from("copy"), &Path::from("renamed")).await.expect("renames");
        let gone = futures::stream::iter(names).map(|name| Ok(Path::from(name))).boxed();
        let deleted: Vec<_> = store.delete_stream(gone).try_collect().await.expect("deletes");
        assert_eq!(deleted.len(), 3);
        let missing = store.get(&path).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    });
}

#[test]
fn large_objects_go_up_in_parts() {
    let server = Server::start();
    let store = store(&server);
    run(async move {
        let path = Path::from("large");
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, "x/y".into());
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = store.put_multipart_opts(&path, options).await.expect("begins");
        let part = |n: u8| vec![n; (5 << 20) + usize::from(n)];
        let parts: Vec<_> = (0..4).map(|n| upload.put_part(part(n).into())).collect();
        futures::future::try_join_all(parts).await.expect("puts parts");
        let unseen = store.head(&path).await;
        assert!(matches!(unseen, Err(Error::NotFound { .. })), "{unseen:?}");
        upload.complete().await.expect("completes");
        let found = store.get(&path).await.expect("gets");
        assert_eq!(found.attributes.get(&Attribute::ContentType), Some(&"x/y".into()));
        let wanted: Vec<u8> = (0..4).flat_map(part).collect();
        assert!(found.bytes().await.expect("reads") == wanted);
        let mut aborted = store.put_multipart(&Path::from("aborted")).await.expect("begins");
        aborted.put_part(part(1).into()).await.expect("puts a part");
        aborted.abort().await.ok();
        let all: Vec<_> = store.list(None).try_collect().await.expect("lists");
        assert_eq!(all.len(), 1);
    });
}
