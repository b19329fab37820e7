//! Prints which of the addresses on standard input, one a line, are alive, and on standard error what that took.
//! The first argument is the rate in packets a second, 0 for as fast as possible; the second the number of probes.

use muster_probe::{Aim, Finding, Settings, start};
use muster_proto::ping::{Detail, Probes};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().map(NonZeroU32::new));
    let rate = arguments.next().transpose()?.unwrap_or_else(|| Probes::default().rate);
    let count = arguments.next().transpose()?.unwrap_or(Some(NonZeroU32::MIN));
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let addresses: Vec<IpAddr> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;

    let begun = Instant::now();
    let probes = Probes { rate, count, period: Duration::from_millis(100), ..Probes::default() };
    // As many findings as targets at most.
    let (sender, findings) = mpsc::channel();
    let sweep = start(Settings { probes, detail: Detail::Ends }, move |batch| match sender.send(batch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    })?;
    sweep.add(addresses.iter().copied().map(Aim::from).collect());
    sweep.close();
    let (mut alive, mut rtt) = (Vec::new(), Duration::ZERO);
    for finding in findings.into_iter().flatten() {
        if let Finding::End { place, tally, .. } = finding
            && let Some(summary) = tally.rtt
        {
            alive.push(addresses[place as usize]);
            rtt += summary.median;
        }
    }
    let (totals, took) = (sweep.join(), begun.elapsed());
    let mut output = std::io::stdout().lock();
    alive.iter().try_for_each(|address| writeln!(output, "{address}"))?;
    let mean = rtt.checked_div(u32::try_from(alive.len())?).unwrap_or_default();
    writeln!(std::io::stderr(), "{} of {} alive in {took:?}, {mean:?} each; {totals:?}", alive.len(), addresses.len())?;
    Ok(())
}
