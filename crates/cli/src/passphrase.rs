//! Passphrases, and what is encrypted to them (age-encryption.org/v1).
//!
//! A passphrase comes from a file or from the terminal, never from the command line or the environment, which
//! others can see.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use age::armor::ArmoredReader;
use age::secrecy::{ExposeSecret as _, SecretString};
use age::{DecryptError, Decryptor, Encryptor};
use console::Term;

use crate::output::note;

/// How much work a passphrase may cost at most, as a power of two (scrypt's N): 1 GiB of memory, a few seconds.
const MAX_WORK: u8 = 20;
/// The longest file of a passphrase.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The passphrase for something new. On the terminal it is asked for twice.
pub(crate) fn new(file: Option<&Path>) -> Result<SecretString, String> {
    match file {
        Some(file) => from_file(file),
        None => {
            let passphrase = asked("Passphrase for the backup: ")?;
            let again = asked("The same again: ")?;
            if passphrase.expose_secret() != again.expose_secret() {
                return Err("the two passphrases are not the same; nothing was done".to_owned());
            }
            Ok(passphrase)
        }
    }
}

/// The passphrase of something that is there.
pub(crate) fn known(file: Option<&Path>) -> Result<SecretString, String> {
    match file {
        Some(file) => from_file(file),
        None => asked("Passphrase of the backup: "),
    }
}

fn asked(prompt: &str) -> Result<SecretString, String> {
    let terminal = Term::stderr();
    if !terminal.is_term() {
        return Err(
            "a passphrase is needed, and there is no terminal to ask: name a file with --passphrase-file"
                .to_owned(),
        );
    }
    let answer = terminal.write_str(prompt).and_then(|()| terminal.read_secure_line());
    usable(answer.map_err(|error| format!("the passphrase cannot be read: {error}"))?)
}

/// The first line of a file.
fn from_file(path: &Path) -> Result<SecretString, String> {
    let name = path.display();
    let failed = |error: io::Error| format!("the passphrase cannot be read from {name}: {error}");
    let file = fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        note(&format!("warning: others may read {name}; 'chmod 600 {name}' keeps it yours"));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    usable(text.lines().next().unwrap_or_default().to_owned())
}

fn usable(passphrase: String) -> Result<SecretString, String> {
    if passphrase.is_empty() {
        return Err("the passphrase is empty; nothing was done".to_owned());
    }
    Ok(SecretString::from(passphrase))
}

/// Encrypts bytes to a passphrase. Takes about a second, on purpose: so does every guess.
pub(crate) fn encrypt(plain: &[u8], passphrase: SecretString) -> io::Result<Vec<u8>> {
    let mut encrypted = Vec::with_capacity(plain.len().saturating_add(4096));
    let mut writer = Encryptor::with_user_passphrase(passphrase).wrap_output(&mut encrypted)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(encrypted)
}

/// Decrypts bytes, in age's binary form or its ASCII armour, to at most `most` bytes.
pub(crate) fn decrypt(encrypted: &[u8], passphrase: SecretString, most: u64) -> Result<Vec<u8>, String> {
    let damaged =
        |error: &dyn std::fmt::Display| format!("the encrypted backup is cut short or damaged: {error}");
    let decryptor = Decryptor::new(ArmoredReader::new(encrypted)).map_err(|error| damaged(&error))?;
    if !decryptor.is_scrypt() {
        return Err(
            "it is encrypted to a key and not to a passphrase: decrypt it with 'age --decrypt' first"
                .to_owned(),
        );
    }
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MAX_WORK);
    let reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let reader = reader.map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => {
            "the passphrase is not the right one".to_owned()
        }
        DecryptError::ExcessiveWork { required, .. } => format!(
            "its passphrase asks for more work than is done here (2^{required}, and 2^{MAX_WORK} is the limit): decrypt it with 'age --decrypt' first"
        ),
        other => damaged(&other),
    })?;
    let mut plain = Vec::new();
    reader.take(most + 1).read_to_end(&mut plain).map_err(|error| damaged(&error))?;
    if plain.len() as u64 > most {
        return Err(format!("this is no backup: what is encrypted is longer than {most} bytes"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    /// Cheap enough for a test; what reads it does not know the difference.
    fn encrypted(plain: &[u8], passphrase: &str, work: u8) -> Vec<u8> {
        let mut recipient = age::scrypt::Recipient::new(secret(passphrase));
        recipient.set_work_factor(work);
        let encryptor =
            Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
        let mut encrypted = Vec::new();
        let mut writer = encryptor.wrap_output(&mut encrypted).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap();
        encrypted
    }

    #[test]
    fn what_is_encrypted_is_decrypted_with_the_same_passphrase_only() {
        let bytes = encrypt(b"all of it", secret("correct horse")).unwrap();
        assert!(handover_supervisor::archive::is_encrypted(&bytes));
        assert_eq!(decrypt(&bytes, secret("correct horse"), 100).unwrap(), b"all of it");
        assert_eq!(decrypt(&bytes, secret("other"), 100).unwrap_err(), "the passphrase is not the right one");
    }

    #[test]
    fn what_is_cut_damaged_too_long_or_too_much_work_is_refused() {
        let bytes = encrypted(&[7; 1000], "p", 2);
        for cut in [0, 10, 30, 100, bytes.len() - 17, bytes.len() - 1] {
            assert!(decrypt(&bytes[..cut], secret("p"), 2000).is_err(), "cut at {cut}");
        }
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let error = decrypt(&damaged, secret("p"), 2000).unwrap_err();
        assert!(error.contains("cut short or damaged"), "{error}");
        let error = decrypt(&bytes, secret("p"), 999).unwrap_err();
        assert!(error.contains("longer than 999 bytes"), "{error}");
        let work = String::from_utf8_lossy(&bytes[..200]).replacen(" 2\n", " 30\n", 1).into_bytes();
        assert!(decrypt(&work, secret("p"), 2000).is_err());
    }

    #[test]
    fn a_passphrase_is_the_first_line_of_its_file_and_not_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passphrase");
        fs::write(&path, "correct horse\nbattery\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(known(Some(&path)).unwrap().expose_secret(), "correct horse");
        assert_eq!(new(Some(&path)).unwrap().expose_secret(), "correct horse");
        fs::write(&path, "\n").unwrap();
        assert!(known(Some(&path)).unwrap_err().contains("empty"));
        assert!(known(Some(Path::new("/nowhere"))).unwrap_err().contains("/nowhere"));
    }
}
