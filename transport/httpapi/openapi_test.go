package httpapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// update is how make generate writes the file anew.
var update = flag.Bool("update", false, "write docs/openapi.json instead of comparing with it")

// The description that is checked in is what a server answers, but for the
// version of the program.
func TestOpenAPIFile(t *testing.T) {
	const file = "../../docs/openapi.json"
	rec := httptest.NewRecorder()
	New(Config{Registry: apitest.New(t), Version: "v1"}).ServeHTTP(rec, httptest.NewRequest("GET", "/openapi.json", nil))
	var want bytes.Buffer
	if err := json.Indent(&want, rec.Body.Bytes(), "", "  "); err != nil || rec.Code != 200 {
		t.Fatalf("%d, %v", rec.Code, err)
	}
	want.WriteByte('\n')
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make generate writes it", err)
	}
	have, need := strings.Split(string(got), "\n"), strings.Split(want.String(), "\n")
	for i := range min(len(have), len(need)) {
		if have[i] != need[i] {
			t.Fatalf("docs/openapi.json:%d is not current; make generate writes it anew\n- %s\n+ %s", i+1, have[i], need[i])
		}
	}
	if len(have) != len(need) {
		t.Fatalf("docs/openapi.json has %d lines, want %d; make generate writes it anew", len(have), len(need))
	}
}

func TestDescriptionIsComplete(t *testing.T) {
	b := newBench(t)
	d := b.description()
	if !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Errorf("version %s", d.OpenAPI)
	}
	if got := len(d.Components.Schemas["Problem"].Properties["code"].Enum); got != len(api.Codes()) {
		t.Errorf("%d codes are described", got)
	}
	for path, methods := range d.Paths {
		for method, op := range methods {
			index := 0
			for status, r := range op.Responses {
				for name := range r.Headers {
					if name == api.HeaderIndex {
						index++
					}
				}
				if len(r.Content) == 0 {
					t.Errorf("%s %s: the body of %s is not described", method, path, status)
				}
			}
			if op.Responses["default"] == nil || index != len(op.Responses) {
				t.Errorf("%s %s: errors or headers are not described", method, path)
			}
			headers := map[string]bool{}
			for _, p := range op.Parameters {
				headers[p.Name] = true
			}
			logged := op.OperationID != "renewSession" && op.OperationID != "reportMove"
			keyed := op.OperationID != "restore" // its tag is its key
			if mutates := method != "get" && logged; headers[api.HeaderRequestID] != (mutates && keyed) || headers[api.HeaderActor] != mutates {
				t.Errorf("%s %s: headers %v", method, path, headers)
			}
		}
	}
	if b.do("GET", "/docs", "").Code != 404 {
		t.Error("there is a page of documentation")
	}
}
