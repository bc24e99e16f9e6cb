package httpapi

import (
	"fmt"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// The audit tells who asked for what, from where and why, and what became of it; in pages, both ways.
func TestAudit(t *testing.T) {
	b := newBench(t)
	b.nodes()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=app:", `{"writer":"a"}`, api.HeaderReason, "for app", api.HeaderActor, "ann")
	b.refused(api.Overlap, "PUT", "/v1/scope?prefix=app:x", `{"writer":"a"}`)
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m1","prefix":"app:","from":"a","to":"b","mode":"assisted","reason":"full"}`)
	b.token("root", &fsm.CreateToken{Role: "admin"}) // by nobody, and so not in it
	b.ok(200, nil, "POST", "/v1/moves/m1/abort", "", append(bearing("root"), api.HeaderReason, "late")...)
	b.ok(200, nil, "DELETE", "/v1/nodes/c", "", bearing("root")...)
	b.refused(api.Overlap, "PUT", "/v1/scope?prefix=", `{"writer":"a"}`, bearing("root")...)

	read := func(query string) (out api.Audit) {
		t.Helper()
		b.ok(200, &out, "GET", "/v1/audit"+query, "", bearing("root")...)
		return out
	}
	numbers := func(a api.Audit) string {
		out := ""
		for _, r := range a.Records {
			out += fmt.Sprint(r.Number, " ")
		}
		return fmt.Sprint(out, a.Next)
	}
	all := read("")
	if got := numbers(all); got != "1 2 3 4 5 6 7 8 9 0" || all.Oldest != 1 || all.Index != b.reg.Index {
		t.Fatalf("%s of %+v", got, all)
	}
	for i, want := range []api.AuditRecord{
		{Number: 4, Action: "declareScope", Prefix: "app:", Subject: "a", Reason: "for app"},
		{Number: 5, Action: "declareScope", Prefix: "app:x", Subject: "a", Code: api.Overlap},
		{Number: 6, Action: "startMove", Prefix: "app:", Subject: "b", Move: "m1", Reason: "full"},
		{Number: 7, Action: "abortMove", Prefix: "app:", Move: "m1", Reason: "late", Actor: "admin token:root"},
		{Number: 8, Action: "removeNode", Subject: "c", Actor: "admin token:root"},
	} {
		got := all.Records[i+3]
		if got.Actor == "" || got.Index == 0 || got.TimeMS == 0 || got.Source != "192.0.2.1" {
			t.Errorf("%+v", got)
		}
		if want.Actor == "" {
			got.Actor = ""
		}
		got.Index, got.TimeMS, got.Source = 0, 0, ""
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	for query, want := range map[string]string{
		"?limit=3":                          "1 2 3 4",
		"?from=4&limit=3":                   "4 5 6 7",
		"?from=99":                          "0",
		"?newest=true&limit=3":              "9 8 7 6",
		"?newest=true&from=5&limit=3":       "5 4 3 2",
		"?prefix=app:":                      "4 6 7 0",
		"?prefix=app:&limit=1":              "4 6",
		"?prefix=app:&newest=true":          "7 6 4 0",
		"?move=m1":                          "6 7 0",
		"?move=m1&prefix=":                  "0",
		"?prefix=&consistency=linearizable": "9 0",
	} {
		if got := numbers(read(query)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}
