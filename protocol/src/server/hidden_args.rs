//! Arguments of commands without credentials. Those belong into the environment, where they are sealed; but many
//! servers only take them as arguments, and the command line is shown to everybody who may use the server.

use super::operation::address_for_people;

/// What stands in place of a credential.
const HIDDEN: &str = "[hidden]";
/// Words by which the name of an argument says that its value is a credential.
const CREDENTIAL_WORDS: &[&str] = &[
    "auth",
    "credential",
    "key",
    "passphrase",
    "passwd",
    "password",
    "secret",
    "token",
];

/// Hides the values in `--token VALUE`, `--token=VALUE`, `TOKEN=VALUE` and `Authorization: VALUE`, and user and query
/// of addresses.
pub(super) fn hide(args: &mut [String]) {
    let mut is_value = false;
    for arg in args {
        let is_flag = arg.starts_with('-');
        if is_value && !is_flag {
            HIDDEN.clone_into(arg);
            is_value = false;
            continue;
        }
        let (name, value) = split(arg);
        is_value = is_flag && value.is_none() && names_credential(name);
        *arg = match value {
            Some((separator, _)) if names_credential(name) => [name, separator, HIDDEN].concat(),
            Some((separator, value)) => [name, separator, &address_for_people(value)].concat(),
            None => address_for_people(arg),
        };
    }
}

/// The name and the value of an argument that has both, with what is between them.
fn split(arg: &str) -> (&str, Option<(&str, &str)>) {
    let is_name = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.is_empty() && name.chars().all(fits)
    };
    let named = ["=", ": ", ":"].iter().find_map(|separator| {
        let (name, value) = arg.split_once(separator)?;
        (is_name(name) && !value.starts_with("//")).then_some((name, (*separator, value)))
    });
    named.map_or((arg, None), |(name, value)| (name, Some(value)))
}

fn names_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIAL_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(args: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        hide(&mut args);
        args
    }

    #[test]
    fn values_of_credentials_are_hidden() {
        assert_eq!(
            hidden(&["--api-key", "abc", "-y"]),
            ["--api-key", "[hidden]", "-y"]
        );
        assert_eq!(
            hidden(&["--token=abc", "-e", "API_KEY=abc"]),
            ["--token=[hidden]", "-e", "API_KEY=[hidden]"]
        );
        assert_eq!(
            hidden(&["--header", "Authorization: Bearer abc", "X-Api-Key:abc"]),
            ["--header", "Authorization: [hidden]", "X-Api-Key:[hidden]"]
        );
        assert_eq!(
            hidden(&[
                "postgresql://me:abc@db.example/shop?sslpassword=abc",
                "--url=https://me:abc@x.example/?k=abc"
            ]),
            ["postgresql://db.example/shop", "--url=https://x.example/"]
        );
    }

    #[test]
    fn what_is_no_credential_stays_as_it_is() {
        for args in [
            &["-y", "@modelcontextprotocol/server-everything", "stdio"][..],
            &["--no-auth", "--port", "8080"],
            &["-m", "mcp_server_time", "--local-timezone=Europe/Berlin"],
            &["C:\\tools\\server.js", "/srv/data", "a b: c", "FOO=bar"],
        ] {
            assert_eq!(hidden(args), args);
        }
    }
}
