package client

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// authority issues certificates for tests.
type authority struct {
	t *testing.T
	certs.Dir
	by *certs.Authority
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, Dir: certs.Dir(t.TempDir())}
	var err error
	if a.by, err = a.Init("east", time.Now()); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) issue(role access.Role, id string, hosts ...string) certs.Files {
	a.t.Helper()
	one, err := a.Issue(a.by, certs.Wish{Who: access.Who{Role: role, ID: id}, Hosts: hosts}, time.Now(), true)
	if err != nil {
		a.t.Fatal(err)
	}
	return certs.Files{Cert: one.Cert, Key: one.Key, CA: a.CA()}
}

// secured is a server under TLS that notes whose certificates it was shown.
type secured struct {
	*httptest.Server
	mu    sync.Mutex // guards shown
	shown []string   // serial numbers
}

func (a *authority) serve(f certs.Files, required bool) *secured {
	a.t.Helper()
	source, err := certs.Open(f, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	s := &secured{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range r.TLS.PeerCertificates {
			s.shown = append(s.shown, c.SerialNumber.String())
		}
		ok(api.Applied{Index: 9})(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Listener = tls.NewListener(s.Listener, source.Listen(required))
	s.Start()
	s.URL = strings.Replace(s.URL, "http:", "https:", 1)
	a.t.Cleanup(s.Close)
	return s
}

// last is the serial number shown last, "" if there is none.
func (s *secured) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shown) == 0 {
		return ""
	}
	return s.shown[len(s.shown)-1]
}

func TestHandshakeErrorsSayWhatToDo(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	server := a.serve(a.issue(access.Server, "s1"), false)
	wanting := a.serve(a.issue(access.Server, "s2"), true)
	node := a.serve(a.issue(access.Node, "n1", "127.0.0.1"), false)
	elsewhere := a.serve(a.issue(access.Node, "n2", "db.example.net"), false)
	plain := servers(t, ok(Nodes{})).endpoints[0]
	trusts := TLS{CA: a.CA()}
	for name, c := range map[string]struct {
		endpoint string
		with     TLS
		code     api.Code
		says     []string
	}{
		"no authority":              {server.URL, TLS{}, api.Unauthenticated, []string{"--cacert", server.URL}},
		"another authority":         {server.URL, TLS{CA: other.CA()}, api.Unauthenticated, []string{"--cacert"}},
		"no certificate":            {wanting.URL, trusts, api.Unauthenticated, []string{"--cert and --key", wanting.URL}},
		"a node is no server":       {node.URL, trusts, api.Unauthenticated, []string{"node/n1", "of a server was expected"}},
		"another host":              {elsewhere.URL, trusts, api.Unauthenticated, []string{"127.0.0.1", "issued for this host"}},
		"a server without TLS":      {strings.Replace(plain, "http:", "https:", 1), trusts, api.Unauthenticated, []string{"does not speak TLS", "http://"}},
		"a server with it":          {strings.Replace(server.URL, "https:", "http:", 1), trusts, api.Internal, []string{"write https://"}},
		"a file that is not there":  {server.URL, TLS{CA: "nowhere.pem"}, api.Invalid, []string{"nowhere.pem"}},
		"a certificate without key": {server.URL, TLS{CA: a.CA(), Cert: "x.pem"}, api.Invalid, []string{"--key"}},
	} {
		cl := New([]string{c.endpoint}, WithTLS(c.with))
		_, err := cl.SetNode(t.Context(), api.Node{ID: "a", Addr: "h:1"})
		cl.Close()
		if !is(err, c.code) {
			t.Errorf("%s: %v, want %s", name, err, c.code)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want something with %q", name, err, text)
			}
		}
	}
}

// TestStrangersArePassedOver: one server with a certificate that has run out does not keep clients from the others.
func TestStrangersArePassedOver(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	strange, good := other.serve(other.issue(access.Server, "s1"), false), a.serve(a.issue(access.Server, "s2"), true)
	f := a.issue(access.Node, "n1")
	cl := New([]string{strange.URL, strings.TrimPrefix(good.URL, "https://")}, WithTLS(TLS{CA: f.CA, Cert: f.Cert, Key: f.Key}))
	defer cl.Close()
	if _, err := cl.SetNode(t.Context(), api.Node{ID: "a", Addr: "h:1"}); err != nil || good.last() == "" {
		t.Errorf("%v, and the good server was shown %q", err, good.last())
	}
	// A token that one server does not know yet is tried at the others, once.
	both := servers(t, when(refuse(api.Unauthenticated)), refuse(api.Unauthenticated))
	if _, err := both.client().SetNode(t.Context(), api.Node{ID: "a"}); !is(err, api.Unauthenticated) || len(both.requests()) != 2 {
		t.Errorf("%v after %d requests", err, len(both.requests()))
	}
	lagging := servers(t, when(refuse(api.Unauthenticated)), when(ok(api.Applied{Index: 9})))
	if _, err := lagging.client().SetNode(t.Context(), api.Node{ID: "a"}); err != nil {
		t.Error(err)
	}
}

// TestCertificateIsReadAnew: a client goes on when its certificate and the authorities were replaced.
func TestCertificateIsReadAnew(t *testing.T) {
	a, after := newAuthority(t), newAuthority(t)
	server, next := a.serve(a.issue(access.Server, "s1"), true), after.serve(after.issue(access.Server, "s1"), false)
	f := a.issue(access.Node, "n1")
	cl := New([]string{server.URL}, WithTLS(TLS{CA: f.CA, Cert: f.Cert, Key: f.Key}))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	until := func(what string, done func(error) bool) {
		t.Helper()
		for {
			_, err := cl.Nodes(ctx)
			if done(err) {
				return
			}
			if !sleep(ctx, 20*time.Millisecond) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	until("the first call", func(err error) bool { return err == nil })
	first := server.last()
	a.issue(access.Node, "n1")
	until("another certificate", func(err error) bool { return err == nil && server.last() != first })
	bundle, err := os.ReadFile(after.CA())
	if err != nil {
		t.Fatal(err)
	}
	cl.endpoints = []string{next.URL}
	if _, err := cl.Nodes(ctx); !is(err, api.Unauthenticated) {
		t.Errorf("a server of another authority: %v", err)
	}
	if err := os.WriteFile(f.CA, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	until("another authority", func(err error) bool { return err == nil })
}

const tokenText = "srt_ci_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestTokens(t *testing.T) {
	var mu sync.Mutex // guards got
	got := ""
	s := servers(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = r.Header.Get("Authorization")
		ok(Nodes{})(w, r)
	})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(tokenText+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client(WithToken(TokenFile(file))).Nodes(t.Context()); err != nil || got != "Bearer "+tokenText {
		t.Errorf("the server got %q, %v", got, err)
	}
	for endpoint, want := range map[string]api.Code{"http://192.0.2.1:7481": api.Invalid, "192.0.2.1:7481": api.Invalid, "http://127.0.0.1.example.net": api.Invalid,
		closed(t): api.Unavailable, strings.Replace(closed(t), "127.0.0.1", "localhost", 1): api.Unavailable} {
		cl := New([]string{endpoint}, WithToken(TokenFile(file)), WithTimeout(time.Second))
		_, err := cl.Nodes(t.Context())
		if cl.Close(); !is(err, want) || strings.Contains(err.Error(), tokenText[8:]) {
			t.Errorf("%s: %v, want %s", endpoint, err, want)
		}
	}
	asked, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://192.0.2.1:7481", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := New(nil, WithToken(TokenFile(file)), WithPlainToken()).authorize(asked); err != nil || asked.Header.Get("Authorization") == "" {
		t.Errorf("where it was allowed, the token is not shown: %v", err)
	}
	for text, says := range map[string]string{"": "cannot be read", "hunter2": "that is no token", tokenText + "x": "that is no token"} {
		bad := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.client(WithToken(TokenFile(bad))).Nodes(t.Context())
		if !is(err, api.Invalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), bad) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a file with %d bytes: %v", len(text), err)
		}
	}
}

func TestTokenFileIsReadAnew(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(dir, "token")
		token := TokenFile(file)
		if _, err := token(); err == nil {
			t.Error("there is a token and no file")
		}
		second := strings.Replace(tokenText, "0123", "3210", 1)
		for _, text := range []string{tokenText, second, "half", second} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			sleep(t.Context(), tokenAge)
			want := text
			if text == "half" {
				want = second
			}
			if got, err := token(); err != nil || got != want {
				t.Errorf("with %.12q… in the file the token is %.12q…, %v", text, got, err)
			}
		}
	})
}
