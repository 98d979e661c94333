//! What a terminal shows while a run goes on.

use std::io;
use std::path::Path;

use dream_trainer::callbacks::{
    Callback, ConsoleLine, Interruption, MemoryUse, ProgressBar, Requests, RunView, Terminal,
};
use indicatif::{ProgressDrawTarget, TermLike};

use crate::support::{Captured, memory, report, run_in, step, validation};

fn drive(callback: &mut dyn Callback, run: &RunView, steps: std::ops::RangeInclusive<u64>) {
    callback.post_setup(run, &report(Vec::new())).unwrap();
    callback.pre_fit(run).unwrap();
    for number in steps {
        callback.post_train_step(run, &step(number), &mut Requests::default()).unwrap();
    }
}

#[test]
fn lines_come_at_the_first_step_and_every_few() {
    let shown = Captured::default();
    let mut lines = ConsoleLine::new(Terminal::new(Box::new(shown.clone())), 10);
    let run = run_in(Path::new("out"), 2000, 0);
    lines.post_validation(&run, &validation(0, true)).unwrap();
    drive(&mut lines, &run, 1..=20);
    lines.post_validation(&run, &validation(20, false)).unwrap();
    lines.post_checkpoint(&run, 20, Path::new("out/checkpoints/step-20")).unwrap();
    lines.post_fit(&run).unwrap();
    insta::assert_snapshot!(shown.text(), @"
    sanity validation passed: 8,192 tokens in 1.5s
    step 1/2000     loss 2.4900  grad_norm 0.87  lr 3.00e-4  16,000 tok/s  eta 8m20s
    step 10/2000    loss 2.4000  grad_norm 0.87  lr 3.00e-4  16,000 tok/s  eta 8m18s
    step 20/2000    loss 2.3000  grad_norm 0.87  lr 3.00e-4  16,000 tok/s  eta 8m15s
    step 20/2000    val_loss 2.2500  8,192 tokens in 1.5s
    step 20/2000    saved checkpoints/step-20
    finished 2,000 steps  80,000 tokens in 5.0s, validation 3.0s
    ");
}

#[test]
fn lines_show_what_else_is_known() {
    let shown = Captured::default();
    let terminal = Terminal::new(Box::new(shown.clone()));
    // 4,096 tokens of 1 GFLOP in 0.25 s on four ranks of 32.768 TFLOP/s each.
    let mut lines = ConsoleLine::new(terminal, 1).with_peak_flops(Some(32.768e12));
    let mut run = run_in(Path::new("out"), 9, 0);
    run.mesh = crate::support::four_ranks();
    lines.post_setup(&run, &report(Vec::new())).unwrap();
    let mut info = step(1);
    info.extra.insert("gan_loss".to_owned(), 0.5);
    (info.loss, info.skipped) = (f64::NAN, true);
    lines.post_train_step(&run, &info, &mut Requests::default()).unwrap();
    insta::assert_snapshot!(shown.text(), @"step 1/9  loss NaN  grad_norm 0.87  lr 3.00e-4  gan_loss 0.5000  16,000 tok/s  mfu 12.5%  eta 2.0s  update skipped");
}

#[test]
fn memory_and_time_in_collectives_are_told_once() {
    let shown = Captured::default();
    let mut lines = ConsoleLine::new(Terminal::new(Box::new(shown.clone())), 0);
    let mut run = run_in(Path::new("out"), 9, 0);
    run.mesh = crate::support::four_ranks();
    drive(&mut lines, &run, 1..=4);
    lines.post_first_step(&run, &memory()).unwrap();
    let on_gpu = MemoryUse { activation_bytes: None, ..memory() };
    lines.post_first_step(&run, &on_gpu).unwrap();
    lines.post_fit(&run).unwrap();
    insta::assert_snapshot!(shown.text(), @"
    step 1/9  1,250 parameters per rank, activations up to 3.15 MB (3.00 MiB), estimated 1.57 MB (1.50 MiB)
    step 1/9  1,250 parameters per rank, activations estimated 1.57 MB (1.50 MiB)
    finished 9 steps  16,000 tokens in 1.0s, 20.0% of it waiting for communication
    ");
}

#[test]
fn continued_run_shows_its_own_first_step_and_why_it_ended() {
    let rows = [
        (Interruption::Signal, "by a signal"),
        (Interruption::Requested { callback: "budget".to_owned() }, "by callback `budget`"),
        (Interruption::Failed("loss is `NaN`".to_owned()), "by an error: loss is `NaN`"),
    ];
    for (why, told) in rows {
        let shown = Captured::default();
        let mut lines = ConsoleLine::new(Terminal::new(Box::new(shown.clone())), 100);
        let run = run_in(Path::new("out"), 2000, 120);
        drive(&mut lines, &run, 121..=123);
        lines.on_interrupt(&run, &why).unwrap();
        let text = shown.text();
        let text: Vec<_> = text.lines().collect();
        assert!(text[0].starts_with("step 121/2000"), "{text:?}");
        assert_eq!(text[1..], [format!("stopped after step 123/2000 {told}")]);
    }
}

#[test]
fn colors_come_only_when_asked_for() {
    for (colored, start) in
        [(false, "step 1/2  loss"), (true, "\x1b[2mstep\x1b[0m 1/2  \x1b[2mloss")]
    {
        let shown = Captured::default();
        let terminal = Terminal::new(Box::new(shown.clone())).colored(colored);
        drive(&mut ConsoleLine::new(terminal, 1), &run_in(Path::new("out"), 2, 0), 1..=1);
        assert!(shown.text().starts_with(start), "{:?}", shown.text());
    }
}

#[test]
fn closed_console_does_not_end_a_run() {
    struct ClosedPipe;
    impl io::Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut lines = ConsoleLine::new(Terminal::new(Box::new(ClosedPipe)), 1);
    let log = Captured::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        drive(&mut lines, &run_in(Path::new("out"), 3, 0), 1..=3);
    });
    assert_eq!(log.text().matches("the console cannot be written to").count(), 1);
}

/// A terminal that takes down what is drawn: `<` clears a line, `^` goes up.
#[derive(Debug, Clone, Default)]
struct Screen(Captured);

impl Screen {
    fn put(&self, text: &str) -> io::Result<()> {
        io::Write::write_all(&mut self.0.clone(), text.as_bytes())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        120
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.put(&"^".repeat(n))
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(&format!("{text}\n"))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text.trim_end())
    }
    fn clear_line(&self) -> io::Result<()> {
        self.put("<")
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal whose lines and bars end up on one screen, as on a real one.
fn screen() -> (Screen, Terminal) {
    let screen = Screen::default();
    let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
    (screen.clone(), Terminal::new(Box::new(screen.0)).with_bars_on(target))
}

#[test]
fn bar_shows_step_loss_grad_norm_speed_and_time_left() {
    let (screen, terminal) = screen();
    let mut bar = ProgressBar::new(terminal);
    drive(&mut bar, &run_in(Path::new("out"), 24, 0), 1..=12);
    let drawn = screen.0.text();
    let last = drawn.rsplit('<').next().unwrap();
    assert_eq!(
        last,
        "train 12/24 [============>           ] loss 2.3800  grad_norm 0.87  16,000 tok/s  eta 3.0s"
    );
}

#[test]
fn line_clears_the_bars_before_it_is_printed() {
    let (screen, terminal) = screen();
    let run = run_in(Path::new("out"), 24, 0);
    let mut bar = ProgressBar::new(terminal.clone());
    drive(&mut bar, &run, 1..=3);
    let before = screen.0.text().len();
    terminal.line("step 3/24  saved");
    let drawn = screen.0.text().split_off(before);
    let (cleared, rest) = drawn.split_once("step 3/24  saved\n").unwrap();
    assert_eq!(cleared, "<");
    assert!(rest.contains("train 3/24"), "the bar is drawn again: {rest}");
}

#[test]
fn validation_has_a_bar_of_its_own_that_goes_away() {
    let (screen, terminal) = screen();
    let run = run_in(Path::new("out"), 24, 0);
    let mut bar = ProgressBar::new(terminal);
    drive(&mut bar, &run, 1..=3);
    bar.post_validation_step(&run, 1, 4).unwrap();
    assert!(screen.0.text().contains("validation 2/4"));
    bar.post_validation(&run, &validation(3, false)).unwrap();
    let before = screen.0.text().len();
    bar.post_train_step(&run, &step(4), &mut Requests::default()).unwrap();
    let drawn = screen.0.text().split_off(before);
    assert!(drawn.contains("train 4/24") && !drawn.contains("validation"), "{drawn}");
    bar.post_fit(&run).unwrap();
    let drawn = screen.0.text();
    assert_eq!(drawn.rsplit('<').next().unwrap(), "", "nothing is left behind");
}

#[test]
fn no_bar_is_drawn_without_a_terminal() {
    let shown = Captured::default();
    let terminal = Terminal::new(Box::new(shown.clone()));
    assert!(!terminal.shows_bars());
    drive(&mut ProgressBar::new(terminal), &run_in(Path::new("out"), 24, 0), 1..=3);
    assert_eq!(shown.text(), "");
}
