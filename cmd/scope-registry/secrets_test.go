package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// All that a server logs, of its core too, tells no secret; and it says that everybody is admitted, as long as that is so.
func TestServerTellsNoSecret(t *testing.T) {
	log := &logged{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := startServer(ctx, serverConfig{HTTPListen: "127.0.0.1:0", Config: registry.Config{ID: "s1", DataDir: t.TempDir(), Timing: "fast", PeerListen: "127.0.0.1:0",
		Peers: []registry.Peer{{ID: "s1", Addr: "127.0.0.1:7482"}}, Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log})}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.waitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "anonymous callers are admitted") {
		select {
		case <-ctx.Done():
			t.Fatal("the log does not say that everybody is admitted")
		case <-time.After(readyEvery):
		}
	}
	secrets := useSecrets(ctx, t, "http://"+s.http)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(log.String()) {
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("the log tells %s: %s", secret, line)
			}
		}
	}
	if !strings.Contains(log.String(), "operation=openSession") {
		t.Error("requests were not logged")
	}
}

// useSecrets asks for all that has to do with a secret, well and badly, and returns them.
func useSecrets(ctx context.Context, t *testing.T, at string) (secrets []string) {
	t.Helper()
	first, text, err := client.DrawToken(client.NewToken{ID: "first", Role: "admin", First: true})
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := client.DrawToken(client.NewToken{ID: "other", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	unknown := client.New([]string{at})
	defer unknown.Close()
	if _, err := unknown.CreateToken(ctx, first); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Header.Set("Authorization", "Bearer "+text)
	}})
	defer front.Close()
	admin := client.New([]string{front.URL})
	defer admin.Close()
	if _, err := admin.SetNode(ctx, client.Node{ID: "a", Addr: "h:1"}); err != nil {
		t.Fatal(err)
	}
	status, err := admin.Cluster(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	const session = "session-secret-0123456789abcdef0123456789"
	open := client.OpenSession{Identity: "disk", Session: "s-1", Token: session, Incarnation: status.Incarnation, Tag: status.Tag, View: admin.Index()}
	if _, err := admin.OpenSession(ctx, "a", open); err != nil {
		t.Fatal(err)
	}
	open.Session, open.PreviousToken = "s-2", session+"-wrong"
	if _, err := admin.OpenSession(ctx, "a", open); api.CodeOf(err) != api.SessionBusy {
		t.Error(err)
	}
	for _, asked := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+other) },
		func(r *http.Request) { r.Header.Set("Authorization", other) },
		func(r *http.Request) { r.URL.Path = "/v1/tokens/" + other },
		func(r *http.Request) { r.URL.RawQuery = "token=" + other },
		func(r *http.Request) { r.Header.Set(api.HeaderRequestID, other+"\xff") },
	} {
		r, err := http.NewRequestWithContext(ctx, http.MethodDelete, front.URL+"/v1/nodes/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		asked(r)
		if r.Header.Get("Authorization") != "" {
			r.URL.Host, r.Host = to.Host, to.Host // past the proxy, which would show a good one
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(res.Body)
		if _ = res.Body.Close(); res.StatusCode/100 != 4 || strings.Contains(string(said), strings.TrimPrefix(other, "srt_other_")) {
			t.Errorf("%s: %s", res.Status, said)
		}
	}
	return []string{session, strings.TrimPrefix(text, "srt_first_"), strings.TrimPrefix(other, "srt_other_")}
}
