package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

// report prints tables and counts, and returns what is wrong.
func (s *session) report(took time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out)
	table(s.out, s.results)
	frozen(s.out, s.frozen)
	isolated(s.out, s.isolated)
	for _, v := range s.void {
		fmt.Fprintf(s.out, "said nothing: %s\n", v)
	}
	for _, text := range s.strange {
		fmt.Fprintf(s.out, "strange: %s\n", text)
	}
	runs := len(s.frozen) + len(s.isolated)
	takeovers := runs
	for _, of := range s.results {
		runs += len(of)
		for _, r := range of {
			if r.Takeover {
				takeovers++
			}
		}
	}
	fmt.Fprintf(s.out, "%d runs on %d systems in %.0f s, seed %d; %d takeovers; the watch had %d gaps\n", runs, s.rigs, took.Seconds(), s.o.seed, takeovers, s.resyncs)
	fmt.Fprintf(s.out, "writes: %d acknowledged, %d refused, %d with unknown outcome\n", s.counts.Acknowledged, s.counts.Refused, s.counts.Unknown)
	err := s.verdict()
	if err == nil {
		fmt.Fprintln(s.out, "nothing lost, no two acceptors, every move ended")
	}
	return err
}

// table prints a row for each step and victim.
func table(out io.Writer, results map[string][]rig.Result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintln(out, "| step / victim | runs | done | aborted | phase at the death | longest move | no write acknowledged: p50, longest |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|")
	order := func(name string) int {
		return slices.IndexFunc(append(rig.Steps(), rig.Anytime), func(s rig.Step) bool { return strings.HasPrefix(name, string(s)+"/") })
	}
	names := slices.SortedFunc(maps.Keys(results), func(a, b string) int { return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a, b)) })
	for _, name := range names {
		done, causes, phases := 0, map[string]int{}, map[string]int{}
		var moves, silences []time.Duration
		for _, r := range results[name] {
			if r.Move.Phase == "done" {
				done++
			} else {
				causes[r.Move.Cause]++
			}
			phases[r.AtDeath]++
			moves, silences = append(moves, r.Took), append(silences, r.Silence)
		}
		slices.Sort(silences)
		fmt.Fprintf(out, "| %s | %d | %d | %s | %s | %.2f s | %.2f s, %.2f s |\n", name, len(moves), done, counted(causes), counted(phases),
			slices.Max(moves).Seconds(), silences[(len(silences)-1)/2].Seconds(), silences[len(silences)-1].Seconds())
	}
	fmt.Fprintln(out)
}

// frozen prints what became of the stopped writers.
func frozen(out io.Writer, all []rig.Frozen) {
	if len(all) == 0 {
		return
	}
	var sum rig.Frozen
	longest, least := time.Duration(0), all[0].Stood
	for _, f := range all {
		sum.InFlight += f.InFlight
		sum.Unknown += f.Unknown
		sum.Refused += f.Refused
		sum.Early += f.Early
		longest, least = max(longest, f.Stood), min(least, f.Stood)
	}
	fmt.Fprintf(out, "%d times a writer was stopped for %.1f to %.1f s, in the middle of %d writes, while its fallback took over. When it went on: %d unknown, %d refused, "+
		"0 acknowledged; %d had been acknowledged before the stop and were delivered after it\n\n",
		len(all), least.Seconds(), longest.Seconds(), sum.InFlight, sum.Unknown, sum.Refused, sum.Early)
}

// isolated prints what became of the writers that were cut off.
func isolated(out io.Writer, all []rig.Isolated) {
	if len(all) == 0 {
		return
	}
	acked, refused, margin, last := 0, 0, all[0].Margin(), time.Duration(0)
	for _, i := range all {
		acked, refused, margin, last = acked+i.Acked, refused+i.Refused, min(margin, i.Margin()), max(last, i.Last)
	}
	fmt.Fprintf(out, "%d times a writer was cut off from the registry under load, while its fallback took over. It acknowledged %d more writes, for %.2f s at most, and refused %d; "+
		"from its last to the fallback's first passed %.2f s at least\n\n", len(all), acked, last.Seconds(), refused, margin.Seconds())
}

// counted is words with how often each came, in order.
func counted(of map[string]int) string {
	var all []string
	for _, word := range slices.Sorted(maps.Keys(of)) {
		all = append(all, fmt.Sprintf("%d %s", of[word], word))
	}
	if len(all) == 0 {
		return "–"
	}
	return strings.Join(all, ", ")
}
