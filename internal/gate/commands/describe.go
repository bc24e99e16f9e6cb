package commands

import (
	"fmt"
)

// Describe reads the reply to COMMAND, in either version of the protocol: arrays as []any, maps as map[any]any or as
// arrays of keys and values, strings, int64. An error names what has another form.
func Describe(reply any) ([]Description, error) {
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("the reply to COMMAND is no array but %T", reply)
	}
	all := make([]Description, 0, len(list))
	for _, item := range list {
		if item == nil {
			continue // a name that COMMAND INFO was asked for and that is none
		}
		d, err := describe(item)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// The fields of one command in the reply. From specsAt on they are there since 7.0.
const (
	nameAt = iota
	arityAt
	flagsAt
	firstAt
	lastAt
	stepAt
	fields   // of servers before 6.0
	specsAt  = 8
	insideAt = 9
)

func describe(item any) (Description, error) {
	row, _ := item.([]any)
	if len(row) < fields {
		return Description{}, fmt.Errorf("COMMAND describes a command by %v, which is no array of at least %d fields", item, fields)
	}
	d := Description{Name: text(row[nameAt]), Arity: number(row[arityAt]), Flags: texts(row[flagsAt]),
		First: number(row[firstAt]), Last: number(row[lastAt]), Step: number(row[stepAt])}
	if d.Name == "" {
		return Description{}, fmt.Errorf("COMMAND describes a command without a name: %v", item)
	}
	if len(row) <= insideAt {
		return d, nil
	}
	d.Specs = []Spec{}
	specs, _ := row[specsAt].([]any)
	for _, s := range specs {
		d.Specs = append(d.Specs, spec(pairs(s)))
	}
	var err error
	if d.Subcommands, err = Describe(row[insideAt]); err != nil {
		return Description{}, fmt.Errorf("subcommands of %s: %w", d.Name, err)
	}
	return d, nil
}

// spec reads one key specification. What has a form that is not known finds no keys, which differs from the table.
func spec(m map[string]any) Spec {
	var s Spec
	for _, flag := range texts(m["flags"]) {
		switch upper(flag) {
		case "RO":
			s.Reads = true
		case "NOT_KEY":
			s.Channel = true
		case "INCOMPLETE":
			s.Incomplete = true
		}
	}
	begin := pairs(m["begin_search"])
	by := pairs(begin["spec"])
	switch text(begin["type"]) {
	case "index":
		s.Begin, s.At = Index, number(by["index"])
	case "keyword":
		s.Begin, s.At, s.Word = Keyword, number(by["startfrom"]), upper(text(by["keyword"]))
	}
	find := pairs(m["find_keys"])
	by = pairs(find["spec"])
	switch text(find["type"]) {
	case "range":
		s.Find, s.Last, s.Step, s.Limit = Range, number(by["lastkey"]), number(by["keystep"]), number(by["limit"])
	case "keynum":
		s.Find, s.Count, s.First, s.Step = KeyCount, number(by["keynumidx"]), number(by["firstkey"]), number(by["keystep"])
	}
	return s
}

// pairs reads a map, or an array of keys and values.
func pairs(v any) map[string]any {
	m := map[string]any{}
	switch v := v.(type) {
	case map[any]any:
		for k, x := range v { // order-free: into a map
			m[text(k)] = x
		}
	case []any:
		for i := 0; i+1 < len(v); i += 2 {
			m[text(v[i])] = v[i+1]
		}
	}
	return m
}

func texts(v any) []string {
	list, _ := v.([]any)
	all := make([]string, 0, len(list))
	for _, x := range list {
		all = append(all, text(x))
	}
	return all
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func number(v any) int {
	n, _ := v.(int64)
	return int(n)
}
