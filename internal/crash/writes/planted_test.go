package writes

import (
	"slices"
	"testing"
)

const scope = "s:"

// acked, refused and unknown are attempts at second at.
func acked(node, key, value string, epoch uint64, at int64) Op {
	return Op{Scope: scope, Key: key, Value: value, Node: node, Outcome: Acknowledged, Token: Token{1, epoch},
		Call: at * 1e9, Began: at*1e9 + 1e6, Ended: at*1e9 + 2e6, Return: at*1e9 + 3e6}
}

func refused(node, key, value string) Op {
	return Op{Scope: scope, Key: key, Value: value, Node: node, Outcome: Refused, Code: "MISDIRECTED"}
}

func unknown(node, key, value string) Op {
	return Op{Scope: scope, Key: key, Value: value, Node: node, Outcome: Unknown, Code: "OUTCOME_UNKNOWN"}
}

func deletes(op Op) Op {
	op.Deletes = true
	return op
}

// rules are the rules that were found to be broken.
func rules(all []Finding) []string {
	var out []string
	for _, f := range all {
		out = append(out, f.Rule)
	}
	return out
}

// step is what happened until all stood still, and what was there then.
type step struct {
	ops   []Op
	taken uint64
	dump  []Record
	epoch uint64 // of the owner
	want  []string
}

func TestLedger(t *testing.T) {
	one := acked("n1", "a", "1", 5, 1)
	for name, steps := range map[string][]step{
		"as it should be": {{ops: []Op{one, refused("n2", "b", "2"), acked("n1", "b", "2", 5, 2), unknown("n1", "c", "3"), unknown("n1", "d", "4")},
			dump: []Record{{"a", "1", 5}, {"b", "2", 5}, {"d", "4", 6}}, epoch: 6}},
		"a lost write":         {{ops: []Op{one}, want: []string{RuleLost}}},
		"an older value":       {{ops: []Op{one, acked("n1", "a", "2", 5, 2)}, dump: []Record{{"a", "1", 5}}, want: []string{RuleLost}}},
		"a later value is due": {{ops: []Op{one, unknown("n1", "a", "2")}, dump: []Record{{"a", "2", 7}}}},
		"an unknown one may be older": {{ops: []Op{one, unknown("n1", "a", "2")}, dump: []Record{{"a", "1", 5}}},
			{dump: []Record{{"a", "2", 5}}, want: []string{RuleLost}}},
		"a deleted key":        {{ops: []Op{one, deletes(acked("n1", "a", "", 5, 2))}}},
		"a deleted key stays":  {{ops: []Op{one, deletes(acked("n1", "a", "", 5, 2))}, dump: []Record{{"a", "1", 5}}, want: []string{RuleBack}}},
		"perhaps deleted":      {{ops: []Op{one, deletes(unknown("n1", "a", ""))}, dump: []Record{{"a", "1", 5}}}, {want: []string{RuleLost}}},
		"nobody wrote it":      {{dump: []Record{{"x", "1", 1}}, want: []string{RuleGhost}}},
		"refused and there":    {{ops: []Op{refused("n1", "a", "1")}, dump: []Record{{"a", "1", 5}}, want: []string{RuleGhost}}},
		"another epoch":        {{ops: []Op{one}, dump: []Record{{"a", "1", 6}}, want: []string{RuleEpoch}}},
		"twice":                {{ops: []Op{one}, dump: []Record{{"a", "1", 5}, {"a", "1", 5}}, want: []string{RuleTwice}}},
		"lost later":           {{ops: []Op{one}, dump: []Record{{"a", "1", 5}}, epoch: 5}, {epoch: 5, want: []string{RuleLost}}},
		"unknown and comes up": {{ops: []Op{unknown("n1", "a", "1")}, epoch: 5}, {dump: []Record{{"a", "1", 5}}, epoch: 6, want: []string{RuleBack}}},
		"a takeover may lose what came before": {{ops: []Op{one, acked("n3", "b", "2", 6, 2)}, taken: 6, dump: []Record{{"b", "2", 6}}, epoch: 6},
			{epoch: 7, dump: []Record{{"b", "2", 6}}},
			{epoch: 8, dump: []Record{{"a", "1", 5}, {"b", "2", 6}}, want: []string{RuleBack}}},
		"a takeover may have older values": {{ops: []Op{one, acked("n1", "a", "2", 5, 2)}, taken: 6, dump: []Record{{"a", "1", 5}}, epoch: 6}},
		"but not of what came after":       {{ops: []Op{one, acked("n3", "a", "2", 6, 2)}, taken: 6, dump: []Record{{"a", "1", 5}}, epoch: 6, want: []string{RuleLost}}},
		"nor what was refused":             {{ops: []Op{refused("n1", "a", "1")}, taken: 6, dump: []Record{{"a", "1", 5}}, epoch: 6, want: []string{RuleGhost}}},
		"nor of the next one": {{ops: []Op{acked("n3", "a", "1", 6, 1)}, taken: 6, dump: []Record{{"a", "1", 6}}, epoch: 6},
			{epoch: 6, want: []string{RuleLost}}},
	} {
		l := NewLedger(scope)
		for i, s := range steps {
			for _, op := range s.ops {
				l.Add(op)
			}
			l.TakenOver(s.taken)
			if got := rules(l.Settle(s.dump, s.epoch)); !slices.Equal(got, s.want) {
				t.Errorf("%s, step %d: found %q, want %q", name, i, got, s.want)
			}
		}
	}
}

func TestTenures(t *testing.T) {
	late := acked("n2", "b", "2", 6, 2)
	late.Began = acked("n1", "a", "1", 5, 1).Ended
	late.Call = late.Began
	strange := acked("n1", "a", "1", 5, 1)
	strange.Ended = strange.Return + 1
	for name, c := range map[string]struct {
		ops   []Op
		owner string // of token 1/5, as the registry says; then it says that n2 has 1/6
		want  []string
	}{
		"as it should be":      {ops: []Op{acked("n1", "a", "1", 5, 1), acked("n2", "b", "2", 6, 2), refused("n3", "b", "2")}, owner: "n1"},
		"heard out of order":   {ops: []Op{acked("n2", "b", "2", 6, 2), acked("n1", "a", "1", 5, 1)}},
		"two nodes, one token": {ops: []Op{acked("n1", "a", "1", 5, 1), acked("n2", "b", "2", 5, 2)}, want: []string{RuleOwner}},
		"not the owner":        {ops: []Op{acked("n1", "a", "1", 5, 1)}, owner: "n2", want: []string{RuleOwner}},
		"of no tenure":         {ops: []Op{acked("n1", "a", "1", 7, 1)}, owner: "n1", want: []string{RuleOwner}},
		"at the same time":     {ops: []Op{acked("n1", "a", "1", 5, 1), late}, want: []string{RuleOverlap}},
		"in the wrong order":   {ops: []Op{acked("n1", "a", "1", 6, 1), acked("n2", "b", "2", 5, 2)}, want: []string{RuleOverlap}},
		"a long one before two": {ops: []Op{acked("n1", "a", "1", 5, 9), acked("n2", "b", "2", 6, 2), acked("n1", "c", "3", 7, 3)},
			want: []string{RuleOverlap, RuleOverlap}},
		"another incarnation":   {ops: []Op{acked("n1", "a", "1", 5, 1), {Scope: scope, Node: "n2", Outcome: Acknowledged, Token: Token{2, 1}, Call: 5e9, Began: 5e9, Ended: 5e9, Return: 5e9}}},
		"a time that cannot be": {ops: []Op{strange}, want: []string{RuleSpan}},
	} {
		tenures := NewTenures()
		if c.owner != "" {
			tenures.Owner(scope, Token{1, 5}, c.owner)
			tenures.Owner(scope, Token{1, 6}, "n2")
		}
		for _, op := range c.ops {
			tenures.Add(op)
		}
		if got := rules(tenures.Check()); !slices.Equal(got, c.want) {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
	}
}

// TestScopesAreApart: two scopes may be written under one token and at one time.
func TestScopesAreApart(t *testing.T) {
	tenures := NewTenures()
	other := acked("n2", "a", "1", 5, 1)
	other.Scope = "o:"
	tenures.Add(acked("n1", "a", "1", 5, 1))
	tenures.Add(other)
	if got := tenures.Check(); len(got) > 0 {
		t.Error(got)
	}
}
