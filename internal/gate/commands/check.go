package commands

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Description is what an upstream says of one of its commands in the reply to COMMAND, see [Describe].
type Description struct {
	Name  string // as the upstream writes it; of a subcommand, container|subcommand
	Arity int
	Flags []string
	// First, Last and Step are the key positions as servers before 7.0 tell them; First 0 is none.
	First, Last, Step int
	// Specs are the key specifications; nil from servers before 7.0.
	Specs       []Spec
	Subcommands []Description
}

func (d *Description) has(flag string) bool { return slices.Contains(d.Flags, flag) }

// Differences are where an upstream and the table disagree, all names in upper case and in order. What Check made of
// it is the stricter of both.
type Differences struct {
	// Refused are commands of the upstream that the table does not know and that are not marked read-only, and those
	// whose keys stand elsewhere than the table says, of a server before 7.0, which cannot be asked.
	Refused []string
	// Passed are those that are marked read-only: forwarded.
	Passed []string
	// Stricter are commands that the table takes for reads and the upstream marks as writes: all their keys must be
	// owned.
	Stricter []string
	// Asked are commands that write and whose keys stand elsewhere than the table says: the upstream is asked for the
	// keys of each.
	Asked []string
	// Missing are commands of the table that the upstream does not have. They are forwarded or refused all the same: the
	// upstream says that it does not know them.
	Missing []string
}

// String tells them in one line, without what is missing: an older server lacks much.
func (d Differences) String() string {
	var parts []string
	for _, part := range []struct {
		what  string
		names []string
	}{
		{"refused", d.Refused}, {"unknown, but marked read-only", d.Passed},
		{"taken for writes", d.Stricter}, {"asked for their keys", d.Asked},
	} {
		if len(part.names) > 0 {
			parts = append(parts, part.what+": "+strings.Join(part.names, " "))
		}
	}
	return cmp.Or(strings.Join(parts, "; "), "none")
}

// Check returns the table for an upstream that describes itself like this, and where the two differ. Without
// descriptions the table is taken as it is: a command that it does not know is not found, and refused.
func Check(upstream []Description) (*Checked, Differences) {
	list := builtin()
	known := make(map[string]*Command, len(list))
	for i := range list {
		known[list[i].Name] = &list[i]
	}
	var diff Differences
	told := map[string]bool{}
	add := func(d *Description) {
		told[upper(d.Name)] = true
		c := known[upper(d.Name)]
		if c == nil {
			c = stranger(d, &diff)
			known[c.Name] = c
			return
		}
		if c.Policy == Pass && d.has("write") || c.Policy == Write || c.Policy == Ask {
			c.compare(d, &diff)
		}
	}
	for i := range upstream {
		add(&upstream[i])
		for j := range upstream[i].Subcommands {
			add(&upstream[i].Subcommands[j])
		}
	}
	t := assemble(known)
	for _, c := range t.all {
		if len(upstream) > 0 && !told[c.Name] {
			c.Missing = true
			diff.Missing = append(diff.Missing, c.Name)
		}
	}
	for _, names := range []*[]string{&diff.Refused, &diff.Passed, &diff.Stricter, &diff.Asked} {
		slices.Sort(*names)
	}
	return t, diff
}

// assemble makes the lookup tables. A container that is not described itself passes without a subcommand: the
// upstream says that there must be one.
func assemble(known map[string]*Command) *Checked {
	t := &Checked{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		container, _, ok := strings.Cut(name, "|")
		if ok && known[container] == nil {
			known[container] = &Command{Name: container, Policy: Pass, Arity: -2}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		t.all = append(t.all, known[name])
	}
	t.top = newIndex(len(t.all))
	for _, c := range t.all {
		container, _, ok := strings.Cut(c.Name, "|")
		if !ok {
			t.top.add(c)
			continue
		}
		if outer := known[container]; outer.subs == nil {
			outer.subs = newIndex(64)
		}
		known[container].subs.add(c)
	}
	return t
}

// stranger is a command that only the upstream knows. A mark that says read-only is believed. Without one it may do
// anything, as EVAL and DEBUG do, which are not marked as writes.
func stranger(d *Description, diff *Differences) *Command {
	c := &Command{Name: upper(d.Name), Arity: d.Arity, Blocks: d.has("blocking")}
	switch {
	case len(d.Subcommands) > 0:
		c.Policy = Pass // with a subcommand it is one of those
	case d.has("readonly"):
		c.Policy = Pass
		c.specs = d.Specs
		if len(c.specs) > 0 {
			c.shape = bySpecs
		}
		diff.Passed = append(diff.Passed, c.Name)
	default:
		c.Why = fmt.Sprintf("ERR the gate does not know '%s', and the store does not mark it as read-only: what it writes cannot be told", strings.ToLower(c.Name))
		diff.Refused = append(diff.Refused, c.Name)
	}
	return c
}

// compare makes the command stricter where the upstream says that it writes more.
func (c *Command) compare(d *Description, diff *Differences) {
	stricter := c.Policy == Pass
	c.Policy = Write
	switch {
	case c.sameKeys(d):
	case d.Specs == nil || c.shape == copyKeys:
		// Before 7.0 there is no COMMAND GETKEYSANDFLAGS; and it does not tell of COPY into which database.
		c.Policy = Refuse
		c.Why = fmt.Sprintf("ERR the store says that the keys of '%s' stand elsewhere than the gate knows, and asking it is no help", strings.ToLower(c.Name))
		diff.Refused = append(diff.Refused, c.Name)
		return
	default:
		c.Policy = Ask
		diff.Asked = append(diff.Asked, c.Name)
		return
	}
	for i := range c.specs {
		if c.specs[i].Reads && (stricter || i < len(d.Specs) && !d.Specs[i].Reads) {
			c.specs[i].Reads = false
			stricter = true
		}
	}
	if stricter {
		diff.Stricter = append(diff.Stricter, c.Name)
	}
}

// sameKeys reports whether the upstream finds the keys of the command where the table does.
func (c *Command) sameKeys(d *Description) bool {
	if d.Specs == nil {
		first, last, step := c.positions()
		return d.has("movablekeys") || d.First == first && d.Last == last && d.Step == step
	}
	return slices.EqualFunc(c.specs, d.Specs, func(ours, theirs Spec) bool {
		// A walk over options knows by itself what it reads: where the upstream takes that for written, it is asked.
		if (c.shape == sortKeys || c.shape == geoKeys) && ours.Reads && !theirs.Reads {
			return false
		}
		ours.Reads, theirs.Reads = false, false
		ours.Incomplete, theirs.Incomplete = false, false
		return ours == theirs
	})
}

// positions are the key positions as servers before 7.0 tell them: those of the specification that begins first, or,
// of several that lie side by side, all together.
func (c *Command) positions() (first, last, step int) {
	for _, s := range c.specs {
		if s.Begin != Index || s.Find != Range || s.Channel {
			continue
		}
		end := s.Last
		if end >= 0 {
			end += s.At
		}
		switch {
		case first == 0:
			first, last, step = s.At, end, s.Step
		case s.At == last+1 && s.Step == step:
			last = end
		}
	}
	return first, last, step
}

// ReadsKey reports of the flags that COMMAND GETKEYSANDFLAGS gives a key whether they say that it is only read.
func ReadsKey(flags []string) bool {
	return slices.ContainsFunc(flags, func(f string) bool { return strings.EqualFold(f, "RO") })
}

func upper(name string) string { return strings.ToUpper(name) }
