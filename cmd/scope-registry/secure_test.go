package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// TestServerUnderTLS: the metric of the certificate, and profiles where they were asked for and nowhere else.
func TestServerUnderTLS(t *testing.T) {
	dir, now := certs.Dir(t.TempDir()), time.Now()
	a, err := dir.Init("east", now)
	if err != nil {
		t.Fatal(err)
	}
	one, err := dir.Issue(a, certs.Wish{Who: access.Who{Role: access.Server, ID: "s1"}}, now, false)
	if err != nil {
		t.Fatal(err)
	}
	own, err := certs.Open(certs.Files{Cert: one.Cert, Key: one.Key, CA: dir.CA()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	trusting, err := certs.OpenClient(certs.Files{CA: dir.CA()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := func(profile string) *server {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := startServer(ctx, serverConfig{HTTPListen: "127.0.0.1:0", Profile: profile, Config: registry.Config{ID: "s1", DataDir: t.TempDir(), Certs: own,
			Peers: []registry.Peer{{ID: "s1", Addr: "127.0.0.1:7482"}}, PeerListen: "127.0.0.1:0", Timing: "fast", Logger: hclog.NewNullLogger()}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	get := func(config *tls.Config, url string) (int, string) {
		t.Helper()
		h := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		resp, err := h.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	s := start("127.0.0.1:0")
	_, metrics := get(trusting.Client(), "https://"+s.http+"/metrics")
	hasSeries(t, metrics, "peer_dropped_total 0", fmt.Sprintf("certificate_end_timestamp_seconds %v", float64(one.Until.Unix())))
	old := trusting.Client().Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if status, said := get(old, "https://"+s.http+"/healthz"); status != 0 || !strings.Contains(said, "protocol version") {
		t.Errorf("TLS 1.2: %d %s", status, said)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap"} {
		if status, body := get(nil, "http://"+s.profile+path); status != http.StatusOK || body == "" {
			t.Errorf("%s: %d", path, status)
		}
		for name, other := range map[string]*server{"with": s, "without": start("")} {
			if status, _ := get(trusting.Client(), "https://"+other.http+path); status != http.StatusNotFound || name == "without" && other.profile != "" {
				t.Errorf("%s at the port of clients, %s --pprof: %d", path, name, status)
			}
		}
	}
}

func hasSeries(t *testing.T, metrics string, wanted ...string) {
	t.Helper()
	for _, series := range wanted {
		if !strings.Contains(metrics, "\nscope_registry_"+series+"\n") {
			t.Errorf("the metrics lack %s: %.300s", series, metrics)
		}
	}
}
