package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// description is what a client reads of /openapi.json.
type description struct {
	OpenAPI    string
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*schema }
}

type operation struct {
	OperationID string
	Parameters  []struct {
		Name, In string
		Required bool
	}
	Responses map[string]*struct {
		Headers map[string]any
		Content map[string]*struct{ Schema *schema }
	}
}

// schema has the keywords that the description uses. One that is not here
// fails the test, as nothing would check it.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 any
	Format               string
	Description          string
	ContentMediaType     string
	Minimum              *float64
	Enum                 []string
	Items                *schema
	Properties           map[string]*schema
	Required             []string
	AdditionalProperties *bool
	OneOf                []*schema
}

func (s *schema) UnmarshalJSON(data []byte) error {
	type plain schema
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode((*plain)(s))
}

// description reads the description of b's server.
func (b *bench) description() *description {
	b.t.Helper()
	var d description
	b.ok(200, &d, "GET", "/openapi.json", "")
	return &d
}

// breaches says where v is not what s describes.
func (d *description) breaches(s *schema, at string, v any) []string {
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
		if s = d.Components.Schemas[name]; s == nil {
			return []string{at + " refers to nothing: " + name}
		}
	}
	if len(s.OneOf) > 0 {
		return d.oneOf(s.OneOf, at, v)
	}
	kind := kindOf(v)
	if !slices.Contains(types(s.Type), kind) {
		return []string{fmt.Sprintf("%s is %s, not %v", at, kind, s.Type)}
	}
	var out []string
	switch v := v.(type) {
	case float64:
		if s.Minimum != nil && v < *s.Minimum {
			out = append(out, fmt.Sprintf("%s is %v, below %v", at, v, *s.Minimum))
		}
	case string:
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
			out = append(out, fmt.Sprintf("%s is %q, none of %v", at, v, s.Enum))
		}
	case []any:
		for i, item := range v {
			out = append(out, d.breaches(s.Items, fmt.Sprintf("%s[%d]", at, i), item)...)
		}
	case map[string]any:
		out = d.object(s, at, v)
	}
	return out
}

func (d *description) object(s *schema, at string, v map[string]any) []string {
	var out []string
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			out = append(out, at+" lacks "+name)
		}
	}
	for name, field := range v {
		switch p := s.Properties[name]; {
		case p != nil:
			out = append(out, d.breaches(p, at+"."+name, field)...)
		case s.AdditionalProperties == nil || *s.AdditionalProperties:
			out = append(out, at+" may hold anything")
		default:
			out = append(out, at+" holds "+name+", which is not described")
		}
	}
	return out
}

func (d *description) oneOf(any []*schema, at string, v any) []string {
	fits := 0
	var out []string
	for _, s := range any {
		wrong := d.breaches(s, at, v)
		if len(wrong) == 0 {
			fits++
		}
		out = append(out, wrong...)
	}
	if fits == 1 {
		return nil
	}
	return append(out, fmt.Sprintf("%s fits %d of %d", at, fits, len(any)))
}

func types(t any) []string {
	switch t := t.(type) {
	case string:
		return []string{t}
	case []any:
		var out []string
		for _, one := range t {
			out = append(out, fmt.Sprint(one))
		}
		return out
	}
	return nil
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64:
		if v == math.Trunc(v) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

// The checker finds what it is there for.
func TestSchemaBreaches(t *testing.T) {
	b := newBench(t)
	b.moving()
	d := b.description()
	var good map[string]any
	if err := json.Unmarshal(b.do("GET", "/v1/moves/m1", "").Body.Bytes(), &good); err != nil {
		t.Fatal(err)
	}
	move := &schema{Ref: "#/components/schemas/Move"}
	if wrong := d.breaches(move, "move", good); len(wrong) > 0 {
		t.Fatalf("%v", wrong)
	}
	stamp := good["stamps"].([]any)[0].(map[string]any)
	for want, spoil := range map[string]func(m map[string]any){
		"move lacks phase":                                func(m map[string]any) { delete(m, "phase") },
		"move holds extra, which is not described":        func(m map[string]any) { m["extra"] = 1.0 },
		"move holds Phase, which is not described":        func(m map[string]any) { m["Phase"] = "x" },
		"move.epoch is string, not integer":               func(m map[string]any) { m["epoch"] = "1" },
		"move.epoch is number, not integer":               func(m map[string]any) { m["epoch"] = 1.5 },
		"move.epoch is -1, below 0":                       func(m map[string]any) { m["epoch"] = -1.0 },
		"move.mode is null, not string":                   func(m map[string]any) { m["mode"] = nil },
		"move.stamps[1] lacks index":                      func(m map[string]any) { m["stamps"] = []any{stamp, map[string]any{"phase": "p", "time_ms": 1.0}} },
		"move.waiting is array, not object":               func(m map[string]any) { m["waiting"] = []any{} },
		"move.waiting.safe_now[0] is boolean, not object": func(m map[string]any) { m["waiting"].(map[string]any)["safe_now"] = []any{true} },
	} {
		var bad map[string]any
		if err := json.Unmarshal(b.do("GET", "/v1/moves/m1", "").Body.Bytes(), &bad); err != nil {
			t.Fatal(err)
		}
		spoil(bad)
		if wrong := d.breaches(move, "move", bad); fmt.Sprint(wrong) != "["+want+"]" {
			t.Errorf("%v, want %s", wrong, want)
		}
	}
	if wrong := d.breaches(&schema{Ref: "#/components/schemas/Problem"}, "p", map[string]any{"code": "NO_SUCH"}); !slices.Contains(wrong, "p lacks detail") || !strings.Contains(fmt.Sprint(wrong), `"NO_SUCH", none of`) {
		t.Errorf("%v", wrong)
	}
}
