package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestParseReply(t *testing.T) {
	for text, want := range map[string]*Error{
		"MISDIRECTED writer is 10.0.0.1:6004":       {Code: api.Misdirected, Addr: "10.0.0.1:6004", Detail: "writer is 10.0.0.1:6004"},
		"-MISDIRECTED writer is [::1]:6004\r\n":     {Code: api.Misdirected, Addr: "[::1]:6004", Detail: "writer is [::1]:6004"},
		"MISDIRECTED writer is node-a":              {Code: api.Misdirected, Owner: "node-a", Detail: "writer is node-a"},
		"MISDIRECTED writer is h:1 (epoch 7)":       {Code: api.Misdirected, Addr: "h:1", Detail: "writer is h:1 (epoch 7)"},
		"MISDIRECTED":                               {Code: api.Misdirected},
		"-QUIESCED migrating to 10.0.0.9:6004":      {Code: api.Quiesced, Addr: "10.0.0.9:6004", Detail: "migrating to 10.0.0.9:6004"},
		"QUIESCED writer is h:1":                    {Code: api.Quiesced, Detail: "writer is h:1"},
		"LEASE_LOST no valid lease":                 {Code: api.LeaseLost, Detail: "no valid lease"},
		"-CROSS_SCOPE a: and b:":                    {Code: api.CrossScope, Detail: "a: and b:"},
		"OUTCOME_UNKNOWN look at the value":         {Code: api.OutcomeUnknown, Detail: "look at the value"},
		"TRYAGAIN UNAVAILABLE starting":             {Code: api.Unavailable, Detail: "starting"},
		"TRYAGAIN Multiple keys request":            nil,
		"MISDIRECTEDX":                              nil,
		"MISDIRECTED writer is :\rh":                nil,
		"misdirected writer is h:1":                 nil,
		"ERR MISDIRECTED writer is h:1":             nil,
		"MOVED 3999 127.0.0.1:6381":                 nil,
		"":                                          nil,
		"-":                                         nil,
		"QUIESCED " + strings.Repeat("x", maxReply): nil,
	} {
		got := ParseReply(text)
		if want == nil {
			if got != nil {
				t.Errorf("%.60q: %v", text, got)
			}
			continue
		}
		var e *Error
		if !errors.As(got, &e) || !reflect.DeepEqual(e, want) {
			t.Errorf("%.60q: %+v, want %+v", text, e, want)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	for _, s := range []string{"-MISDIRECTED writer is h:1\r\n", "QUIESCED migrating to [::1]:2", "LEASE_LOST", "TRYAGAIN UNAVAILABLE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := ParseReply(text)
		if err == nil {
			return
		}
		var e *Error
		if !errors.As(err, &e) || !e.Code.Known() || strings.ContainsAny(e.Addr, " \r\n") || !strings.Contains(text, e.Addr) || e.Addr != "" && e.Owner != "" {
			t.Errorf("%q: %+v", text, e)
		}
	})
}

// What a store writes its client reads, whatever the error was wrapped in.
func TestErrorsOverHTTP(t *testing.T) {
	for _, code := range api.Codes() {
		want := &Error{Code: code, Detail: "d\"<", Owner: "a", Addr: "h:1", RetryMS: 1001, Epoch: 7, Index: 9}
		rec := httptest.NewRecorder()
		WriteError(rec, fmt.Errorf("while writing: %w", want))
		resp := rec.Result()
		body, _ := io.ReadAll(resp.Body)
		var problem map[string]any
		if err := json.Unmarshal(body, &problem); err != nil || problem["status"] != float64(resp.StatusCode) || problem["type"] != "urn:scope-registry:error:"+string(code) {
			t.Errorf("%s, %v", body, err)
		}
		if resp.StatusCode != code.HTTPStatus() || resp.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: status %d, %v", code, resp.StatusCode, resp.Header)
		}
		var e *Error
		if err := ErrorFrom(resp, body); !errors.As(err, &e) || !reflect.DeepEqual(e, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	rec := httptest.NewRecorder()
	WriteError(rec, errors.New("secret"))
	if got := rec.Body.String(); rec.Code != 500 || strings.Contains(got, "secret") || rec.Header().Get("Retry-After") != "" || !is(ErrorFrom(rec.Result(), []byte(got)), api.Internal) {
		t.Errorf("%d %s", rec.Code, got)
	}
}

// What is not ours must not be taken for a refusal that had no effect.
func TestErrorFromOthers(t *testing.T) {
	problem := http.Header{"Content-Type": {"application/problem+json; charset=utf-8"}}
	for _, c := range []struct {
		status int
		header http.Header
		body   string
		want   api.Code // "" is none
	}{
		{200, problem, `{"code":"MISDIRECTED"}`, ""},
		{204, nil, "", ""},
		{409, problem, `{"code":"MISDIRECTED"}`, api.Misdirected},
		{409, http.Header{"Content-Type": {"application/json"}}, `{"code":"MISDIRECTED"}`, api.Internal},
		{409, problem, `{"code":"MINE"}`, api.Internal},
		{503, problem, `{`, api.Internal},
		{404, nil, "", api.Internal},
		{307, nil, "", api.Internal},
	} {
		err := ErrorFrom(&http.Response{StatusCode: c.status, Header: c.header}, []byte(c.body))
		if (err == nil) != (c.want == "") || err != nil && !is(err, c.want) {
			t.Errorf("%d %s: %v, want %s", c.status, c.body, err, c.want)
		}
	}
}
