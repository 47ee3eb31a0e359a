use super::*;

fn source(name: &str, rows: u32, share: f64) -> Source {
    let lengths = (0..rows).map(|row| 1 + row * 7 % 13).collect();
    Source { name: name.to_owned(), rows: (100..100 + rows).collect(), lengths, share }
}

fn sampler(mixture: Mixture) -> Sampler {
    Sampler::new(vec![source("a", 60, 1.0), source("b", 30, 1.0), source("c", 10, 1.0)], mixture).unwrap()
}

fn rows(epoch: &Epoch, task: u32) -> Vec<u32> {
    epoch.units().filter(|unit| unit.task == task).flat_map(|unit| unit.rows.to_vec()).collect()
}

#[test]
fn an_epoch_by_size_has_every_row_once_and_in_another_order_each_time() {
    let sampler = sampler(Mixture::default());
    let (first, second) = (sampler.plan(0), sampler.plan(1));
    for (task, n) in [(0, 60), (1, 30), (2, 10)] {
        let (mut rows, next) = (rows(&first, task), rows(&second, task));
        assert_ne!(rows, next);
        rows.sort_unstable();
        assert_eq!(rows, (100..100 + n).collect::<Vec<_>>());
    }
    let turns = |epoch: &Epoch| epoch.units().map(|unit| unit.task).collect::<Vec<_>>();
    assert_ne!(turns(&first), turns(&second));
    assert!(!turns(&first).is_sorted());
    assert_eq!(first, sampler.plan(0));
}

/// A task that gives a third of its rows to an epoch has given all of them after three, and none twice.
#[test]
fn no_row_comes_again_before_all_have_come() {
    let mixture = Mixture { strategy: Strategy::Share, samples: Some(60), ..Mixture::default() };
    let sampler = sampler(mixture);
    let mut seen: Vec<_> = (0..3).flat_map(|epoch| rows(&sampler.plan(epoch), 0)).collect();
    seen.sort_unstable();
    assert_eq!(seen, (100..160).collect::<Vec<_>>());
    for epoch in 0..4 {
        let small = rows(&sampler.plan(epoch), 2);
        let counts: Vec<_> =
            (100..110).map(|row| small.iter().filter(|found| **found == row).count()).collect();
        assert_eq!(counts, [2; 10]);
    }
}

#[test]
fn blended_epochs_are_even() {
    let sampler = sampler(Mixture { order: Order::Blended, ..Mixture::default() });
    let turns: Vec<_> = sampler.plan(0).units().map(|unit| unit.task).collect();
    assert_eq!(turns[..10], [0, 1, 2, 0, 0, 1, 0, 0, 1, 0]);
    assert!(turns.chunks(10).all(|ten| ten.iter().filter(|task| **task == 2).count() == 1));
}

#[test]
fn packed_rows_are_of_one_task_and_hold_all_rows() {
    let sampler = sampler(Mixture { packing: Some((Packing::BestFit, 16)), ..Mixture::default() });
    let epoch = sampler.plan(0);
    assert!(epoch.len() < 60);
    let mut all = rows(&epoch, 1);
    all.sort_unstable();
    assert_eq!(all, (100..130).collect::<Vec<_>>());
    let length = |row: &u32| 1 + (row - 100) * 7 % 13;
    assert!(epoch.units().all(|unit| unit.rows.iter().map(length).sum::<u32>() <= 16));
    let preview = sampler.preview();
    assert_eq!((preview.units, preview.tasks[1].rows), (epoch.len(), 30));
    assert!(preview.tasks.iter().all(|task| task.fill.is_some_and(|fill| fill > 0.5 && fill <= 1.0)));
    assert!((preview.tasks.iter().map(|task| task.token_share).sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn previews_say_samples_and_tokens() {
    let text = sampler(Mixture { strategy: Strategy::Share, ..Mixture::default() }).preview().to_string();
    let line = text.lines().last().unwrap();
    assert!(
        line.starts_with("c: 33 of 10 rows per epoch (each 3.3 times), ") && line.contains("% of all"),
        "{text}"
    );
}

/// From any position on, over the end of an epoch, a restored sampler gives what the first would have.
#[test]
fn positions_are_restored_exactly() {
    let mixture =
        Mixture { packing: Some((Packing::NextFit, 20)), order: Order::Shuffled, ..Mixture::default() };
    let mut first = sampler(mixture.clone());
    let units = first.plan(0).len();
    for steps in [0, 1, units - 1, units, units + 3] {
        let mut going = sampler(mixture.clone());
        for _ in 0..steps {
            going.next_unit();
        }
        let text = serde_json::to_string(&going.state()).unwrap();
        first.restore(serde_json::from_str(&text).unwrap()).unwrap();
        for _ in 0..2 * units {
            let (a, b) = (going.next_unit(), first.next_unit());
            assert_eq!((a.task, a.rows), (b.task, b.rows));
        }
        assert_eq!(first.state(), going.state());
    }
}

#[test]
fn positions_of_others_are_refused() {
    let mut sampler = sampler(Mixture::default());
    let state = sampler.state();
    let others = [
        super::tests::sampler(Mixture { seed: 1, ..Mixture::default() }),
        super::tests::sampler(Mixture { cap: 0.5, ..Mixture::default() }),
        Sampler::new(
            vec![source("a", 60, 1.0), source("b", 30, 2.0), source("c", 10, 1.0)],
            Mixture::default(),
        )
        .unwrap(),
        Sampler::new(
            vec![source("a", 60, 1.0), source("b", 31, 1.0), source("c", 10, 1.0)],
            Mixture::default(),
        )
        .unwrap(),
    ];
    for other in others {
        let error = sampler.restore(other.state()).unwrap_err().to_string();
        assert!(error.starts_with("sampler state: it belongs to other data"), "{error}");
    }
    let beyond = SamplerState { position: 101, ..state };
    assert!(sampler.restore(beyond).unwrap_err().to_string().contains("beyond the end"));
    assert_eq!(sampler.state(), state);
    assert!(serde_json::from_str::<SamplerState>("{\"epoch\": 0, \"position\": 0}").is_err());
}

#[test]
fn sources_that_cannot_be_sampled() {
    let error = |sources, mixture| Sampler::new(sources, mixture).unwrap_err().to_string();
    assert!(error(vec![], Mixture::default()).starts_with("tasks: there are none"));
    assert!(error(vec![source("a", 0, 1.0)], Mixture::default()).starts_with("tasks.a: there are no rows"));
    for share in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(error(vec![source("a", 3, share)], Mixture::default()).starts_with("tasks.a: share: "));
    }
    let packed = Mixture { packing: Some((Packing::BestFit, 12)), ..Mixture::default() };
    assert!(
        error(vec![source("a", 60, 1.0)], packed)
            .starts_with("tasks.a: a row has 13 tokens, packed rows have 12")
    );
}
