#[test]
fn probe() {
    use crate::harness::*;
    for m in ["task_arithmetic", "ties", "dare_ties","arcee_fusion", "iso_cts"] {
        let mut job = Job::new(m, vec![Input::random(1, &[4, 4], if m == "arcee_fusion" { 1 } else { 2 })]);
        if m != "arcee_fusion" && m != "iso_cts" { job = job.each("weight", &[1.0; 2]); }
        if m.contains("ties") { job = job.each("density", &[0.5; 2]); }
        let t = std::time::Instant::now();
        for _ in 0..200 { job.run().unwrap(); }
        eprintln!("{m} {:?}", t.elapsed() / 200);
    }
}
