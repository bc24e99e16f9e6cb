package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

// logOf is a bench whose log goes into text.
func logOf(t *testing.T, json bool) (*bench, *bytes.Buffer) {
	var text bytes.Buffer
	b := benchOf(t, func(cfg *Config) {
		cfg.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, JSONFormat: json, Output: &text})
	})
	return b, &text
}

// Nobody writes lines of the log but the server.
func TestLogCannotBeForged(t *testing.T) {
	const forged = "x\r\n2026-01-01T00:00:00Z [ERROR] forged: \x1b[2Jby=admin\x85\u2028\x00"
	escaped := "x%0D%0A2026-01-01T00:00:00Z%20[ERROR]%20forged%1B%5B2J%E2%80%A8%00"
	for _, asJSON := range []bool{false, true} {
		b, text := logOf(t, asJSON)
		for _, e := range []exchange{
			get("/" + escaped), get("/v1/nodes/" + escaped), get("/v1/scope?prefix=" + escaped), get("/v1/watch?from=" + escaped), send("PUT", "/v1/sessions/"+escaped, `{"view_index":1}`),
			send("DELETE", "/v1/tokens/"+escaped, ""), get("/v1/backup?" + escaped), send("POST", "/v1/restore?incarnation="+escaped, "x"), send("POST", "/healthz", forged),
			send("PUT", "/v1/nodes/a", `{"addr":"`+strings.ReplaceAll(escaped, "%0D%0A", `\r\n`)+`"}`),
		} {
			for _, header := range [][]string{nil, {"User-Agent", forged}, {api.HeaderActor, forged}, {api.HeaderReason, forged}, {api.HeaderRequestID, forged}, {"Authorization", "Bearer " + forged},
				{"Authorization", "Bearer srt_" + forged + "_00"}, {lastEventID, forged}, {"Accept", forged}, {"Origin", forged}, {"X-Forwarded-For", forged}} {
				text.Reset()
				req := httptest.NewRequest("GET", "/", strings.NewReader(e.body))
				req.Method = e.method
				var err error
				if req.URL, err = req.URL.Parse(e.target); err != nil {
					t.Fatal(err)
				}
				if header != nil {
					req.Header.Set(header[0], header[1])
				}
				b.h.ServeHTTP(httptest.NewRecorder(), req)
				line := text.String()
				if n := strings.Count(line, "\n"); n != 1 || !strings.HasSuffix(line, "\n") || bytes.ContainsAny(text.Bytes(), "\r\x1b\x00\u0085\u2028") || strings.Contains(line, "\x85") {
					t.Errorf("%s %s with %q: %d lines: %q", e.method, e.target, header, n, line)
				}
				if asJSON && !json.Valid(text.Bytes()) {
					t.Errorf("no JSON: %q", line)
				}
			}
		}
	}
}

// Secrets stand in no line of the log, and in no error.
func TestSecretsStayOut(t *testing.T) {
	const session = "0123456789abcdef0123456789abcdef"
	good, bad := secretOf("admin"), secretOf("other")
	secrets := []string{session}
	for _, token := range []access.Token{good, bad} {
		secrets = append(secrets, strings.TrimPrefix(token.Text(), "srt_"+token.ID+"_"))
	}
	synctest.Test(t, func(t *testing.T) {
		b, text := logOf(t, false)
		b.populated()
		b.token("admin", &fsm.CreateToken{Role: "admin"})
		all := []exchange{send("DELETE", "/v1/tokens/"+bad.Text(), ""), get("/v1/nodes/" + bad.Text()), get("/" + bad.Text()), get("/v1/nodes?token=" + bad.Text()), get("/v1/watch?from=" + bad.Text()),
			send("POST", "/v1/tokens", strings.Replace(newToken, strings.Repeat("0", 64), bad.Text(), 1)), send("POST", "/v1/tokens", strings.Replace(newToken, "first", bad.Text(), 1)),
			send("POST", "/v1/nodes/w/session", `{"token":"`+session+`","odd":1}`), send("POST", "/v1/nodes/w/session", `{"token":"`+session+`"}`)}
		for _, calls := range exchanges() {
			all = append(all, calls...)
		}
		for _, e := range all {
			for _, header := range [][]string{bearing("admin"), bearing("other"), {"Authorization", bad.Text()}, {"Authorization", "Bearer " + bad.Text() + "0"},
				append(bearing("admin"), api.HeaderRequestID, bad.Text()+"\x01"), append(bearing("admin"), api.HeaderReason, bad.Text()+"\x01")} {
				if rec := b.ask(asker{header: header}, e); rec.Code/100 != 2 {
					said := rec.Body.String() + fmt.Sprint(rec.Header())
					for _, s := range secrets {
						if strings.Contains(said, s) {
							t.Errorf("%s %s: the error tells a secret: %s", e.method, e.target, said)
						}
					}
				}
			}
		}
		if text.Len() == 0 {
			t.Error("nothing was logged")
		}
		for line := range strings.Lines(text.String()) {
			for _, s := range secrets {
				if strings.Contains(line, s) {
					t.Errorf("the log tells a secret: %s", line)
				}
			}
		}
	})
}
