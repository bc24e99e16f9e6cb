package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/internal/access"
)

// lookEvery is how long a connection may still be made with what the files held before they changed.
const lookEvery = time.Second

// Files are the paths of what a program shows and trusts, in PEM.
type Files struct {
	Cert string // certificate, with those between it and the authority
	Key  string // its private key
	CA   string // authorities whose certificates are believed
}

// None says whether no file is named.
func (f Files) None() bool { return f == Files{} }

// whole refuses a certificate without its key, and the other way round; a server needs authorities too.
func (f Files) whole(server bool) error {
	if (f.Cert == "") == (f.Key == "") && (!server || f.Cert != "" && f.CA != "") {
		return nil
	}
	return fmt.Errorf("certificate %q, key %q and authorities %q do not make a whole: a certificate needs its key, and a server all three; "+
		"give --cert, --key and --cacert", f.Cert, f.Key, f.CA)
}

// Source is a program's certificate and the authorities it trusts. It is safe for use by many goroutines. It needs no
// closing.
type Source struct {
	files Files
	read  func(Files) (*held, error)
	log   hclog.Logger
	now   func() time.Time

	mu     sync.Mutex // guards the rest
	held   *held
	looked time.Time
	failed string // why the files could not be read at the last look, "" if they could
}

// held is what the files held when they were read last.
type held struct {
	raw     [3][]byte        // contents of the files
	cert    *tls.Certificate // nil if the program has none
	pool    *x509.CertPool   // nil is that of the system
	cluster string           // "" without a certificate
	who     access.Who
	client  *tls.Config // what Client returns
}

// Open reads the files. The certificate must say who the program is, see [access.Who.URI], and be of an authority in CA.
// log may be nil.
func Open(files Files, log hclog.Logger) (*Source, error) {
	return open(files, log, Files.read)
}

// OpenClient reads the files of a program that only connects to servers: without a certificate it shows none, and without
// authorities it trusts those of the system. Of the returned Source only Client, Problem may be used. log may
// be nil.
func OpenClient(files Files, log hclog.Logger) (*Source, error) {
	return open(files, log, Files.readClient)
}

func open(files Files, log hclog.Logger, read func(Files) (*held, error)) (*Source, error) {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	s := &Source{files: files, read: read, log: log, now: time.Now}
	h, err := read(files)
	if err != nil {
		return nil, err
	}
	s.held, s.looked = h, s.now()
	return s, nil
}

// readClient reads what of the files is named. Whether the certificate is good is for servers to say, who may trust other
// authorities.
func (f Files) readClient() (*held, error) {
	if err := f.whole(false); err != nil {
		return nil, err
	}
	h := &held{client: &tls.Config{MinVersion: tls.VersionTLS13}}
	for i, name := range []string{f.Cert, f.Key, f.CA} {
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate or key: %w; see scope-registry certs --help", err)
		}
		h.raw[i] = data
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(h.raw[0], h.raw[1])
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", f.Cert, f.Key, err)
		}
		if h.cluster, h.who, err = Identity(pair.Leaf); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
		}
		h.cert, h.client.Certificates = &pair, []tls.Certificate{pair}
	}
	if f.CA != "" {
		h.pool = x509.NewCertPool()
		if !h.pool.AppendCertsFromPEM(h.raw[2]) {
			return nil, fmt.Errorf("%s holds no certificate of an authority in PEM", f.CA)
		}
		h.client.RootCAs = h.pool
	}
	h.client.VerifyConnection = h.server
	return h, nil
}

// server refuses a certificate that is good for the name of the host, and says that its holder is somebody else than a
// server: a node's, say. One that says nothing is that of a proxy.
func (h *held) server(st tls.ConnectionState) error {
	leaf := st.PeerCertificates[0]
	if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.Scheme == access.Scheme }) {
		return nil
	}
	cluster := h.cluster
	if cluster == "" { // this program is nobody, and at home in every cluster
		cluster, _, _ = Identity(leaf) // what is wrong with it is found out below
	}
	if err := serverOf(leaf, cluster, ""); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: st.PeerCertificates, Err: err}
	}
	return nil
}

// read is readClient for those who are somebody themselves, and believe by the same authorities who others are.
func (f Files) read() (*held, error) {
	if err := f.whole(true); err != nil {
		return nil, err
	}
	h, err := f.readClient()
	if err != nil {
		return nil, err
	}
	leaf := h.cert.Leaf
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: h.pool, Intermediates: between(h.cert.Certificate[1:]), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("certificate %s is not good under the authorities in %s: %w", f.Cert, f.CA, err)
	}
	return h, nil
}

func between(raw [][]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range raw {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}

// until is the end of the certificate as text, "" without one.
func (h *held) until() string {
	if h.cert == nil {
		return ""
	}
	return h.cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
}

// current is what the files hold, looked at once a second at most. Files that cannot be used, as while they are being
// replaced, leave what was there.
func (s *Source) current() *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.looked) < lookEvery {
		return s.held
	}
	s.looked = now
	h, err := s.read(s.files)
	switch {
	case err != nil:
		if s.failed != err.Error() {
			s.failed = err.Error()
			s.log.Error("certificates cannot be read anew, those from before stay in use", "error", err)
		}
		return s.held
	case h.cluster != s.held.cluster || h.who != s.held.who:
		if text := fmt.Sprintf("it is of %s of cluster %q now", h.who, h.cluster); s.failed != text {
			s.failed = text
			s.log.Error("the certificate is somebody else's, the one from before stays in use; start the program anew to be another", "certificate", s.files.Cert, "why", text)
		}
		return s.held
	}
	s.failed = ""
	for i := range h.raw {
		if !bytes.Equal(h.raw[i], s.held.raw[i]) {
			s.log.Info("certificates were read anew", "certificate", s.files.Cert, "until", h.until())
			s.held = h
			break
		}
	}
	return s.held
}

// Cluster is the name of the cluster in the program's certificate. It does not change.
func (s *Source) Cluster() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.cluster
}

// Who is who the program's certificate says it is. It does not change.
func (s *Source) Who() access.Who {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.who
}

// Expires is the end of the certificate in use.
func (s *Source) Expires() time.Time { return s.current().cert.Leaf.NotAfter }

// Due says whether it is time to renew the certificate in use.
func (s *Source) Due() bool { return due(s.current().cert.Leaf, s.now()) }

// Problem is why the files could not be read anew at the last look; nil if they could.
func (s *Source) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == "" {
		return nil
	}
	return errors.New(s.failed)
}

// Client is the configuration of connections to the front doors of servers, whose certificates must be good for the names of
// their hosts. It must not be changed. It is another one when files have changed, and connections are best made anew then.
func (s *Source) Client() *tls.Config { return s.current().client }

// Listen is the configuration of a listener, TLS 1.3. With required nobody gets in who has no certificate of a trusted
// authority; otherwise one is asked for, and one that is shown must be good.
func (s *Source) Listen(required bool) *tls.Config {
	auth := tls.VerifyClientCertIfGiven
	if required {
		auth = tls.RequireAndVerifyClientCert
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		h := s.current()
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*h.cert}, ClientAuth: auth, ClientCAs: h.pool,
			// A ticket would bring back a certificate that is not trusted any more.
			SessionTicketsDisabled: true}, nil
	}}
}

// Dial is the configuration of one connection to a server of the cluster. It is believed by the role and, unless id is "",
// the id in its certificate, not by the name of its host: an address that passed to another server is found out.
// A configuration is for one connection: the next one may find other files.
func (s *Source) Dial(id string) *tls.Config {
	h := s.current()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*h.cert},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, without the host's name
		VerifyConnection: func(st tls.ConnectionState) error {
			if len(st.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			leaf := st.PeerCertificates[0]
			pool := x509.NewCertPool()
			for _, c := range st.PeerCertificates[1:] {
				pool.AddCert(c)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: h.pool, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				return fmt.Errorf("the server's certificate: %w", err)
			}
			return serverOf(leaf, h.cluster, id)
		}}
}

// DialNode is the configuration of one connection to a node of the cluster, which is believed by its certificate, as with Dial.
// That need not be one of a server: what it is good for is said by its role and id.
func (s *Source) DialNode(id string) *tls.Config {
	h := s.current()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*h.cert},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, without the host's name
		VerifyConnection: func(st tls.ConnectionState) error {
			leaf := st.PeerCertificates[0] // a client always has the server's
			pool := x509.NewCertPool()
			for _, c := range st.PeerCertificates[1:] {
				pool.AddCert(c)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: h.pool, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				return fmt.Errorf("the node's certificate: %w", err)
			}
			cluster, who, err := Identity(leaf)
			switch {
			case err != nil:
				return fmt.Errorf("the node's certificate: %w", err)
			case cluster != h.cluster || who.Role != access.Node || who.ID != id:
				return fmt.Errorf("the certificate is of %s of cluster %q, and node %q of cluster %q was expected; is its address right?", who, cluster, id, h.cluster)
			}
			return nil
		}}
}

func serverOf(leaf *x509.Certificate, cluster, id string) error {
	theirs, who, err := Identity(leaf)
	switch {
	case err != nil:
		return fmt.Errorf("the server's certificate: %w", err)
	case theirs != cluster:
		return fmt.Errorf("the server's certificate is of cluster %q, this program's of %q", theirs, cluster)
	case who.Role != access.Server:
		return fmt.Errorf("the certificate is of %s, and that of a server was expected; check the list of servers", who)
	case id != "" && who.ID != id:
		return fmt.Errorf("the certificate is of %s, and server %q was expected; check the list of servers", who, id)
	}
	return nil
}

// Of is who the other side of an accepted connection is by its verified certificate; ok is false if it showed none.
// The error says that the certificate, although of a trusted authority, names nobody of this cluster.
func (s *Source) Of(st tls.ConnectionState) (who access.Who, ok bool, err error) {
	if len(st.VerifiedChains) == 0 {
		return who, false, nil
	}
	cluster, who, err := Identity(st.PeerCertificates[0])
	if err == nil && cluster != s.Cluster() {
		err = fmt.Errorf("the certificate is of %s of cluster %q, and this is cluster %q", who, cluster, s.Cluster())
	}
	if err != nil {
		return access.Who{}, false, err
	}
	return who, true, nil
}

// Identity is who a certificate says its holder is: its one URI of our scheme. It does not verify the certificate.
func Identity(c *x509.Certificate) (cluster string, who access.Who, err error) {
	found := false
	for _, u := range c.URIs {
		if u.Scheme != access.Scheme {
			continue
		}
		if found {
			return "", access.Who{}, fmt.Errorf("it has two identities, %q and another; it needs exactly one", who)
		}
		found = true
		if cluster, who, err = access.FromURI(u); err != nil {
			return "", access.Who{}, err
		}
	}
	if !found {
		return "", access.Who{}, fmt.Errorf("it has no identity: a URI %s://CLUSTER/ROLE[/ID] in its subject alternative names; issue one with: scope-registry certs issue", access.Scheme)
	}
	return cluster, who, nil
}
