package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

const (
	// Reserved begins the keys that are the gate's own: clients may neither read nor write them, and no slice has them.
	Reserved = "__scope-registry:"
	// LockKey holds which gate stands before the store.
	LockKey = Reserved + "gate"
	// namePrefix begins the names of a gate's connections; after it come node, instance and a number.
	namePrefix = "scope-registry-gate:"
	// maxPassword bounds what is read of a password file.
	maxPassword = 4 << 10
)

// Config says where the store is, and for whom it is opened.
type Config struct {
	// Addr is host:port of the store.
	Addr string
	// User is whom the gate's connections authenticate as; "" is the default user.
	User string
	// PasswordFile holds the user's password and nothing else but an end of line; it is read anew at every connection. ""
	// is a store that asks for none.
	PasswordFile string
	// TLS has the store be reached over TLS.
	TLS bool
	// CA holds the authorities of the store's certificate, in PEM; "" is those of the system.
	CA string
	// Cert and Key are the gate's own certificate for the store, in PEM, read anew at every connection; "" is none.
	Cert, Key string
	// Node is the node that the gate speaks for.
	Node string
	// Identity is that of the node's data dir, which only one process has: who holds both may take over what an earlier
	// process of them left on the store.
	Identity string
}

// Check says what is missing, or does not belong together.
func (c *Config) Check() error {
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return fmt.Errorf("the store's address %q is not host:port, like 127.0.0.1:6379", c.Addr)
	}
	if c.Node == "" || c.Identity == "" || strings.ContainsAny(c.Node+c.Identity, " \r\n:") {
		return fmt.Errorf("node %q with identity %q cannot hold a store; both are words without space and colon", c.Node, c.Identity)
	}
	if (c.Cert == "") != (c.Key == "") {
		return fmt.Errorf("certificate %q and key %q for the store: give both or neither", c.Cert, c.Key)
	}
	if !c.TLS && c.CA+c.Cert != "" {
		return errors.New("an authority or a certificate for the store is given, and TLS to it is not asked for")
	}
	return nil
}

// password reads the file, "" without one.
func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	data, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("the store's password cannot be read: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" || len(text) > maxPassword {
		return "", fmt.Errorf("the file of the store's password, %s, holds %d bytes; it holds the password, of at most %d, and nothing else", c.PasswordFile, len(text), maxPassword)
	}
	return text, nil
}

// secure is how the store is reached over TLS; nil without.
func (c *Config) secure() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, err
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("the authorities of the store's certificate cannot be read: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate of an authority, in PEM", c.CA)
		}
	}
	if c.Cert != "" {
		read := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return &pair, err
		}
		if _, err := read(); err != nil {
			return nil, fmt.Errorf("the certificate %s with the key %s for the store: %w", c.Cert, c.Key, err)
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return read() }
	}
	return out, nil
}
