//! `muster login`: become an operator. The key is made here and never leaves.

use crate::client;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show;
use muster_proto::context::{Config, Context};
use muster_proto::tls;
use muster_proto::token::{Token, TokenKind};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

/// Options of `muster login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The word that `muster operator add` printed; the context is named with --context
    #[arg(value_name = "CODE")]
    code: Token,
}

/// Performs `muster login`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let code = args.code;
    if code.kind != TokenKind::Login || code.address.is_empty() {
        return Err(Usage("this is a token for machines: use it with `muster-agent enroll`".into()).into());
    }
    // What would be refused is refused before the code is used up.
    if let Some(name) = settings.named_context() {
        check_free(&settings.load()?, name, &code)?;
    }
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let grant = client::log_in(&code, request.der()).await?;

    let host = code.address.rsplit_once(':').map_or(code.address.as_str(), |(host, _)| host);
    let context = Context {
        controller: format!("{host}:{}", grant.operator_port),
        cluster: grant.cluster.to_string(),
        operator: grant.operator.to_string(),
        certificate: tls::certificate_to_pem(&grant.certificate),
        key: key.serialize_pem(),
        controller_ca: tls::certificate_to_pem(&grant.controller_ca),
        operator_ca: tls::certificate_to_pem(&grant.operator_ca),
    };
    let name = settings.change(|config| keep(config, settings.named_context(), context))?;
    show::note(&format!(
        "logged in as {} at {host}:{}: context {name} in {}",
        grant.operator,
        grant.operator_port,
        settings.path().display()
    ));
    Ok(Exit::Success)
}

fn check_free(config: &Config, name: &str, code: &Token) -> Result<(), Usage> {
    match config.contexts.get(name) {
        Some(context) if context.cluster != code.cluster.to_string() => Err(Usage(format!(
            "context {name} leads to another cluster ({}): choose another name with --context",
            context.controller
        ))),
        _ => Ok(()),
    }
}

/// Puts the context under the wanted name, in place of an older identity of the same operator, or under a free name;
/// never in place of anybody else's key. Returns the name.
fn keep(config: &mut Config, wanted: Option<&str>, context: Context) -> String {
    let same = |other: &Context| other.cluster == context.cluster && other.operator == context.operator;
    let mine = config.contexts.iter().find(|(_, other)| same(other)).map(|(name, _)| name.clone());
    let wish = wanted.map(str::to_owned).or(mine).unwrap_or_else(|| "default".to_owned());
    let free = |name: &String| config.contexts.get(name).is_none_or(same);
    let others = (1..).map(|number| match number {
        1 => format!("{wish}-{}", context.operator),
        _ => format!("{wish}-{}-{number}", context.operator),
    });
    let name = std::iter::once(wish.clone()).chain(others).find(free).unwrap_or(wish);
    config.contexts.insert(name.clone(), context);
    config.current.get_or_insert_with(|| name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(cluster: &str, operator: &str) -> Context {
        Context {
            controller: "c:1".into(),
            cluster: cluster.into(),
            operator: operator.into(),
            certificate: String::new(),
            key: String::new(),
            controller_ca: String::new(),
            operator_ca: String::new(),
        }
    }

    #[test]
    fn a_login_replaces_only_the_same_operator() {
        let mut config = Config::default();
        assert_eq!(keep(&mut config, None, context("a", "ada")), "default");
        assert_eq!(keep(&mut config, None, context("a", "ada")), "default");
        assert_eq!(keep(&mut config, None, context("b", "ada")), "default-ada");
        assert_eq!(keep(&mut config, Some("prod"), context("a", "bob")), "prod");
        assert_eq!(keep(&mut config, Some("prod"), context("a", "eve")), "prod-eve");
        assert_eq!(keep(&mut config, Some("prod"), context("b", "eve")), "prod-eve-2");
        assert_eq!(config.current.as_deref(), Some("default"));
        assert_eq!(config.contexts.len(), 5);
    }

    #[test]
    fn the_key_signs_jobs() {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate").pem();
        assert!(muster_proto::seal::Signer::from_pem(&key.serialize_pem(), &certificate).is_ok());
    }
}
