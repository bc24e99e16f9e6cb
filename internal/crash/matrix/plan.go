package main

import (
	"math/rand/v2"
	"strings"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

// job is one run.
type job struct {
	rig.Case
	other string // stopName or cutName: a writer is stopped or cut off, and nobody dies
	tries int    // that said nothing
}

// Names of the runs in which a writer is stopped, or cut off from the registry.
const stopName, cutName = "stop/writer", "cut/writer"

// name is step and victim.
func (j job) name() string {
	if j.other != "" {
		return j.other
	}
	name := string(j.Step) + "/" + string(j.Victim)
	if !j.PreCopy {
		name += " (no pre-copy)"
	}
	return name
}

// plan is all runs, in an order that the seed gives, so that no system meets one
// case only. Without pre-copy a move begins closed, and its start is its quiesce.
func plan(o options) []job {
	var all []job
	add := func(j job) {
		if strings.Contains(j.name(), o.only) {
			all = append(all, j)
		}
	}
	for i := range o.runs {
		scope := rig.Plain
		if i%2 == 1 {
			scope = rig.Heir
		}
		for _, victim := range rig.Victims() {
			for _, step := range append(rig.Steps(), rig.Anytime) {
				add(job{Case: rig.Case{Scope: scope, Step: step, Victim: victim, PreCopy: true}})
			}
			if victim != rig.Command {
				for _, step := range []rig.Step{rig.Begun, rig.Shipped} {
					add(job{Case: rig.Case{Scope: scope, Step: step, Victim: victim}})
				}
			}
		}
		add(job{other: stopName})
		add(job{other: cutName})
	}
	rnd := rand.New(rand.NewPCG(o.seed, 0))
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}
