//! One run: a small world made from a seed, its actors let loose, and the final account.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use strongroom_base::{Cancel, Digest};
use strongroom_format::Conditional;
use strongroom_keys::{KeySource, generate_key_file};
use strongroom_objects::{Key, Memory, ObjectStore};
use strongroom_vault::{ReclaimOptions, Vault, VaultOptions, reclaim};

use crate::{
    Sabotage,
    actors::{Host, Run, Scene, reclaim_options},
    clock::SimClock,
    content::Alphabet,
    rng::{Rng, SimEntropy},
    scheduler::{ActorId, Policy, Scheduler},
    store::{Faults, Role, Shared},
    world::{World, chain},
};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong first.
    pub failure: Option<String>,
    /// Every operation, in order.
    pub trace: Vec<String>,
    /// Steps of the interleaving.
    pub steps: u64,
    /// Recovery points that were published.
    pub published: u64,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let failure = self.failure.as_deref().unwrap_or("all is well");
        write!(f, "sim: seed {}: {failure}", self.seed)
    }
}

/// An error of the simulator's own surroundings, such as a full disk.
type Setup<T> = Result<T, String>;

/// An empty vault, the same for all runs.
struct Template {
    key: Vec<u8>,
    objects: Vec<(Key, Vec<u8>)>,
    digests: Vec<Digest>,
}

impl Template {
    fn get() -> &'static Setup<Self> {
        static TEMPLATE: OnceLock<Setup<Template>> = OnceLock::new();
        TEMPLATE.get_or_init(Self::new)
    }

    fn new() -> Setup<Self> {
        let folder = tempfile::tempdir().map_err(text)?;
        let path = folder.path().join("key");
        let entropy = Arc::new(SimEntropy::new(1));
        generate_key_file(&path, &*entropy).map_err(text)?;
        let key = std::fs::read(&path).map_err(text)?;
        let store = Memory::default();
        // The same in every process, or a seed would not be an interleaving.
        let scheduler = Arc::new(Scheduler::new(Rng::new(0), Policy::Random(1), 1));
        let clock = SimClock { scheduler, user: None, wrong_by: Arc::default() };
        let options = VaultOptions {
            clock: Arc::new(clock),
            entropy,
            uploaders: 0,
            beats: false,
            ..VaultOptions::default()
        };
        let source = KeySource::File(path);
        let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let honoured = Conditional::Honoured;
        let vault = Vault::create(shared, &source, "simulator", honoured, Vec::new(), options);
        let vault = vault.map_err(text)?;
        let digests = Alphabet::get().digests(vault.hasher());
        let mut names = Vec::new();
        let mut visit = |entry: strongroom_objects::Entry| {
            names.push(entry.key);
            std::ops::ControlFlow::Continue(())
        };
        store.list("", &mut visit).map_err(text)?;
        let read = |key: Key| store.get(&key, 1 << 20).map(|body| (key, body)).map_err(text);
        let objects = names.into_iter().map(read).collect::<Setup<_>>()?;
        Ok(Self { key, objects, digests })
    }
}

fn text(error: impl std::error::Error) -> String {
    chain(&error)
}

/// Runs the world of a seed.
pub fn simulate(seed: u64, sabotage: Sabotage) -> Outcome {
    let mut rng = Rng::new(seed);
    let policy = match rng.below(3) {
        0 => Policy::Ranks(rng.choose([20, 60, 200], 60)),
        1 => Policy::Random(1),
        _ => Policy::Random(rng.choose([3, 10, 40], 10)),
    };
    let tick = rng.choose([20, 200, 200, 2_000, 20_000], 200);
    let scheduler = Arc::new(Scheduler::new(rng.clone(), policy, tick));
    let shared = Arc::new(Shared::new(scheduler, sabotage, &mut rng));
    let failure = match prepare(&shared, &mut rng) {
        Ok((folder, scene)) => {
            let scene = Arc::new(scene);
            play(&scene, folder.path(), &mut rng);
            Ok(scene)
        }
        Err(error) => Err(error),
    };
    let (failure, published) = match failure {
        Ok(scene) => (scene.world.failure(), scene.world.published()),
        Err(error) => (Some(error), 0),
    };
    Outcome { seed, failure, trace: shared.trace(), steps: shared.scheduler.steps(), published }
}

fn prepare(shared: &Arc<Shared>, rng: &mut Rng) -> Setup<(tempfile::TempDir, Scene)> {
    let template = Template::get().as_ref().map_err(Clone::clone)?;
    let folder = tempfile::tempdir().map_err(text)?;
    let path = folder.path().join("key");
    std::fs::write(&path, &template.key).map_err(text)?;
    template.objects.iter().for_each(|(key, body)| shared.plant(key, body));
    let scene = Scene {
        shared: Arc::clone(shared),
        world: Arc::new(World::new(template.digests.clone())),
        key: KeySource::File(path),
        pack_size: usize::try_from(rng.choose([3_000, 6_000, 20_000], 6_000)).unwrap_or(6_000),
    };
    Ok((folder, scene))
}

/// The host of the observer outside.
fn observer_host() -> Host {
    Host { name: "observer".to_owned(), cache: None, wrong_by: Arc::default(), service: None }
}

fn play(scene: &Arc<Scene>, folder: &Path, rng: &mut Rng) {
    let mut hosts: Vec<Host> = (0..rng.between(1, 3)).map(|n| host(folder, n, rng)).collect();
    if scene.shared.sabotage.is_one_process() {
        hosts.truncate(1);
        hosts.iter_mut().for_each(|host| host.service = Some(Arc::default()));
    }
    history(scene, rng);
    watch(scene);
    let mut actors = rng.between(2, 6);
    let faults = Faults {
        one_in: rng.choose([0, 15, 60, 200], 60),
        left: u32::try_from(rng.between(1, 4)).unwrap_or(1),
        late: rng.once_in(2),
        pause_one_in: rng.choose([0, 20, 60, 200], 60),
        jump_one_in: rng.choose([0, 0, 100], 0),
        rot_one_in: rng.choose([0, 0, 0, 2, 6], 0),
        cut_one_in: if scene.shared.sabotage.leaves_manifests() {
            0
        } else {
            rng.choose([0, 0, 0, 0, 3], 0)
        },
    };
    let faults = scene.shared.sabotage.faults(faults);
    scene.shared.set_faults(faults);
    let mut weights = rng.choose([[4, 2, 4, 1], [6, 1, 3, 1], [3, 3, 6, 2]], [4, 2, 4, 1]);
    if scene.shared.sabotage.is_one_process() {
        (actors, weights) = (6, [6, 2, 4, 0]);
    }
    std::thread::scope(|scope| {
        for number in 0..actors {
            let me = scene.shared.scheduler.join();
            let host = rng.pick(&hosts).cloned().unwrap_or_else(observer_host);
            let rng = Rng::new(rng.next());
            let scene = Arc::clone(scene);
            scope.spawn(move || {
                scene.shared.scheduler.enter(me);
                let acts = || act(&scene, me, number, &host, rng, weights);
                if catch_unwind(AssertUnwindSafe(acts)).is_err() {
                    scene.world.fail(format!("actor {number} panicked"));
                }
                scene.shared.scheduler.leave(me);
            });
        }
        scene.shared.scheduler.start();
    });
    if scene.shared.scheduler.is_endless() {
        scene.world.fail("the run does not end".to_owned());
    }
    if scene.world.failure().is_none() {
        settle(scene);
    }
}

fn host(folder: &Path, number: u64, rng: &mut Rng) -> Host {
    let cache = (!rng.once_in(3)).then(|| folder.join(format!("host{number}")));
    let wrong_by = rng.choose([0, 0, 0, -3_000, 3_000, 100_000], 0);
    let service = rng.once_in(3).then(Arc::default);
    Host {
        name: format!("host{number}"),
        cache,
        wrong_by: Arc::new(AtomicI64::new(wrong_by)),
        service,
    }
}

/// What happened before: some points, some of them deleted.
fn history(scene: &Scene, rng: &mut Rng) {
    let name = "history";
    let fork = Rng::new(rng.next());
    let Ok(mut run) = scene.open(None, &observer_host(), Role::Observer, name, fork) else {
        return;
    };
    for _ in 0..rng.between(0, 5) {
        run.backup(scene);
        scene.shared.scheduler.advance(Duration::from_mins(10));
        if rng.once_in(3) {
            run.delete(scene);
        }
    }
}

/// Has the whole vault checked by a fresh process after some deletions of packs.
fn watch(scene: &Arc<Scene>) {
    let watched = Arc::downgrade(scene);
    let count = AtomicU64::new(0);
    scene.shared.watch(Box::new(move || {
        let Some(scene) = watched.upgrade() else { return };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let name = format!("watcher {number}");
        let rng = Rng::new(number);
        let host = observer_host();
        if let Ok(run) = scene.open(None, &host, Role::Observer, &name, rng) {
            scene.world.check(&run.vault, &|| scene.shared.cut(), "in between");
        }
    }));
}

/// The life of an actor: processes one after the other, each with some work.
fn act(scene: &Scene, me: ActorId, number: u64, host: &Host, mut rng: Rng, weights: [u64; 4]) {
    let roles = [Role::Writer, Role::Deleter, Role::Reclaim, Role::Reader];
    for turn in 0..rng.between(1, 3) {
        let mut at = rng.below(weights.iter().sum());
        let role = roles.into_iter().zip(weights).find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let role = role.map_or(Role::Writer, |(role, _)| role);
        let name = format!("{role:?} {number}.{turn}").to_lowercase();
        let fork = Rng::new(rng.next());
        if scene.world.failure().is_some() {
            return;
        }
        let Ok(mut run) = scene.open(Some(me), host, role, &name, fork) else { continue };
        for _ in 0..rng.choose([1, 1, 2, 3], 1) {
            if !run.crashed() {
                work(scene, &mut run, host);
            }
        }
    }
}

fn work(scene: &Scene, run: &mut Run, host: &Host) {
    match run.process.role {
        Role::Writer => run.backup(scene),
        Role::Deleter => run.delete(scene),
        Role::Reader => run.restore(scene),
        Role::Reclaim => {
            let options = reclaim_options(&mut run.rng, &host.name);
            run.reclaim(scene, &options);
        }
        Role::Observer => {}
    }
}

/// The final account: after everything is quiet nothing is lost, and one more backup and
/// one more reclaim leave nothing behind.
fn settle(scene: &Scene) {
    scene.shared.set_faults(Faults::default());
    scene.shared.settle();
    scene.shared.scheduler.advance(Duration::from_hours(200));
    let open = |name: &str| {
        // Another seed for each: ids and salts must differ as they do in life.
        let rng = Rng::new(scene.shared.scheduler.random(Rng::next));
        scene.open(None, &observer_host(), Role::Observer, name, rng).map_err(text)
    };
    let finish = || -> Setup<()> {
        let cut = || scene.shared.cut();
        scene.world.check(&open("end")?.vault, &cut, "at the end");
        // Whatever has crashed: a backup and a reclaim put the house in order.
        open("last backup")?.backup(scene);
        let options = ReclaimOptions { threads: 1, merge_below: 0, ..ReclaimOptions::default() };
        let run = open("last reclaim")?;
        let report = reclaim(&run.vault, &options, &Cancel::new()).map_err(text)?;
        if !report.waiting_for.is_empty() {
            return Err(format!("the last reclaim waits for {:?}", report.waiting_for));
        }
        scene.world.check(&run.vault, &cut, "after the last reclaim");
        let run = open("after all")?;
        scene.world.check(&run.vault, &cut, "after all");
        for prefix in ["writers/", "condemned/", "deleted/"] {
            if let Some((name, _)) = scene.shared.names(prefix).first() {
                return Err(format!("the last reclaim left {name}"));
            }
        }
        let options = ReclaimOptions { dry_run: true, ..options };
        let left = reclaim(&run.vault, &options, &Cancel::new()).map_err(text)?;
        if left.packs_dead > 0 || left.packs_compacted > 0 {
            return Err(format!("the last reclaim left garbage: {left:?}"));
        }
        Ok(())
    };
    if let Err(error) = finish() {
        scene.world.fail(format!("in the end: {error}"));
    }
}
