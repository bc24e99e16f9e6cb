package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

const (
	// dialTime bounds connecting, and again the handshake: a server that lives takes milliseconds for either.
	dialTime = 2 * time.Second
	// tokenAge is how long a token may be used after its file has changed.
	tokenAge = time.Second
	// maxTokenFile bounds what is read of such a file: a token and an end of line.
	maxTokenFile = 4 << 10
)

// TLS names the files of a client's side of TLS, in PEM. They are read anew when they change, so that a client may live longer
// than its certificate.
type TLS struct {
	CA   string // authorities whose certificates servers may have; "" is those of the system
	Cert string // the client's own certificate, with those between it and its authority; "" is none
	Key  string // the private key of Cert
}

// WithTLS has endpoints that do not say how they are reached be reached over TLS, and tells how. The files are read at the
// first call. With [WithHTTPClient] it does nothing more.
func WithTLS(t TLS) Option { return func(c *Client) { c.tls = &t } }

// WithToken gives a token to show with every request, for example by [TokenFile]. It is asked before each. A token is shown
// over TLS, and to servers on this machine, and else the call fails with INVALID; see [WithPlainToken].
func WithToken(token func() (string, error)) Option { return func(c *Client) { c.token = token } }

// WithPlainToken lets the token go over plain HTTP to other machines, where whoever can read along can use it.
func WithPlainToken() Option { return func(c *Client) { c.plainToken = true } }

// TokenFile returns the token in a file, which is read anew when it may have changed. If it cannot be, the token from before
// stays in use. No error has any of the file's contents in it. The function may be called by many goroutines.
func TokenFile(name string) func() (string, error) {
	t := &tokenFile{name: name}
	return t.token
}

type tokenFile struct {
	name string

	mu   sync.Mutex // guards the rest
	text string
	read time.Time
}

func (t *tokenFile) token() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text != "" && time.Since(t.read) < tokenAge {
		return t.text, nil
	}
	text, err := readToken(t.name)
	if err == nil {
		t.text, t.read = text, time.Now()
	} else if t.text == "" {
		return "", err
	}
	return t.text, nil
}

func readToken(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("the token cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, maxTokenFile)
	n, err := f.Read(buf)
	if err != nil {
		return "", fmt.Errorf("the token cannot be read from %s: %w", name, err)
	}
	text := strings.TrimSpace(string(buf[:n]))
	if _, err := access.ParseToken(text); err != nil {
		return "", fmt.Errorf("file %s: %w", name, err)
	}
	return text, nil
}

// authorize puts the token into a request.
func (c *Client) authorize(req *http.Request) error {
	if c.token == nil {
		return nil
	}
	if req.URL.Scheme != "https" && !c.plainToken && !onThisMachine(req.URL.Hostname()) {
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("endpoint %s://%s is plain HTTP to another machine, and everybody on the way could read the token; "+
			"use https:// (or --plain-token, client.WithPlainToken, if nobody is on the way)", req.URL.Scheme, req.URL.Host)}
	}
	text, err := c.token()
	if err != nil {
		return &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+text)
	return nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// overTLS is the transport to servers with TLS. There is a new one when the files have changed, so that what is dialed from
// then on is dialed with what they hold now.
type overTLS struct {
	files certs.Files

	mu     sync.Mutex // guards the rest
	source *certs.Source
	config *tls.Config // that the transport was made of
	made   *http.Transport
}

func newOverTLS(t *TLS) *overTLS {
	o := &overTLS{}
	if t != nil {
		o.files = certs.Files{CA: t.CA, Cert: t.Cert, Key: t.Key}
	}
	return o
}

// RoundTrip sends a request.
func (o *overTLS) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := o.transport()
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	return t.RoundTrip(req)
}

func (o *overTLS) transport() (*http.Transport, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.source == nil {
		s, err := certs.OpenClient(o.files, nil)
		if err != nil {
			return nil, err
		}
		o.source = s
	}
	if now := o.source.Client(); now != o.config {
		if o.made != nil {
			o.made.CloseIdleConnections()
		}
		o.config, o.made = now, newTransport()
		o.made.TLSClientConfig = now.Clone() // through a proxy
		o.made.DialTLSContext = o.dial(now)
	}
	return o.made, nil
}

// dial returns what makes connections. An error of a handshake is one of dialing: nothing was sent.
func (o *overTLS) dial(config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTime}, Config: config}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
		defer cancel()
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			return conn, nil
		}
		if old := o.source.Problem(); old != nil {
			err = fmt.Errorf("%w (with what the files held before: %w)", err, old)
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
}

// CloseIdleConnections does so for the connections made last.
func (o *overTLS) CloseIdleConnections() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made != nil {
		o.made.CloseIdleConnections()
	}
}

func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTime}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}
}

// handshakeFailed says what is wrong, and what to do, when a connection could not be put under TLS; nil if that is not why
// there is none.
func handshakeFailed(endpoint string, err error) error {
	say := func(code api.Code, format string, args ...any) error {
		return &api.Error{Code: code, Detail: endpoint + " " + fmt.Sprintf(format, args...)}
	}
	var untrusted *tls.CertificateVerificationError
	var stranger x509.UnknownAuthorityError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &stranger):
		return say(api.Unauthenticated, "shows a certificate of an authority that is not trusted (%v); give the authority's certificate with --cacert (client.WithTLS)", err)
	case errors.As(err, &untrusted):
		return say(api.Unauthenticated, "shows a certificate that is not good: %v; is it the right server, and was its certificate renewed and issued for this host?", err)
	case errors.As(err, &plain):
		return say(api.Unauthenticated, "does not speak TLS (%v); write http:// if it is to be asked without", err)
	}
	return nil
}

// refusedByServer says whether the server ended the handshake, as it does when it does not like the client's certificate. The
// client learns of it when it reads the answer to a request, which the server has not looked at.
func refusedByServer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func unwelcome(endpoint string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op
	}
	return &api.Error{Code: api.Unauthenticated, Detail: fmt.Sprintf("%s refused the connection: %v; it may want a certificate: give one with --cert and --key (client.WithTLS), "+
		"that has not expired and is of an authority the server trusts", endpoint, err)}
}

// base is the address of a server, with how it is reached.
func base(endpoint string, secure bool) string {
	endpoint = strings.TrimRight(strings.TrimSpace(endpoint), "/")
	switch {
	case endpoint == "" || strings.Contains(endpoint, "://"):
		return endpoint
	case secure:
		return "https://" + endpoint
	}
	return "http://" + endpoint
}
