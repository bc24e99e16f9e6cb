package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/scope-registry/scope-registry/internal/api"
)

// show prints v as JSON when that is asked for, else what table prints.
func (c *cli) show(v any, table func() error) error {
	switch c.format {
	case "json":
		enc := json.NewEncoder(c.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return written(enc.Encode(v))
	case "jsonl":
		return c.line(v)
	default:
		return table()
	}
}

// line prints v as one line of JSON.
func (c *cli) line(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	return written(enc.Encode(v))
}

// list prints many: with jsonl each item on its own line.
func list[T any](c *cli, whole any, items []T, head string, row func(T) []string) error {
	if c.format == "jsonl" {
		for _, it := range items {
			if err := c.line(it); err != nil {
				return err
			}
		}
		return nil
	}
	return c.show(whole, func() error {
		rows := make([][]string, 0, len(items))
		for _, it := range items {
			rows = append(rows, row(it))
		}
		return c.table(head, rows)
	})
}

// table prints aligned columns. An empty cell is a dash, so that every line has
// the same number of words, and no line ends in spaces.
func (c *cli) table(head string, rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	if head != "" {
		_, _ = fmt.Fprintln(w, strings.ReplaceAll(head, " ", "\t"))
	}
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = dash(strings.TrimSpace(printable(cell, "")))
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return written(w.Flush())
}

// facts prints name and value pairs, leaving out those with nothing to say.
func (c *cli) facts(pairs ...string) error {
	var rows [][]string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" && pairs[i+1] != "0" {
			rows = append(rows, []string{pairs[i], pairs[i+1]})
		}
	}
	return c.table("", rows)
}

func (c *cli) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format, args...)
	return written(err)
}

func written(err error) error {
	if err != nil {
		return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the output cannot be written: %v", err)}
	}
	return nil
}

// applied prints the answer of a mutation.
func (c *cli) applied(what string, a api.Applied) error {
	c.warn(a.Warnings)
	return c.show(a, func() error {
		line := fmt.Sprintf("%s at index %d", what, a.Index)
		if a.Epoch != 0 {
			line += fmt.Sprintf(", epoch %d", a.Epoch)
		}
		return c.printf("%s\n", line)
	})
}

// printable replaces what a terminal would act on: reasons and addresses were
// given by somebody else. Runes in keep stay.
func printable(text, keep string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || strings.ContainsRune(keep, r) {
			return r
		}
		return ' '
	}, text)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// truth is a truth value as text, "" if it is not known.
func truth(v *bool) string {
	if v == nil {
		return ""
	}
	return yesNo(*v)
}

// size is a number of bytes as people read it.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, names := float64(n)/unit, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for v >= unit && len(names) > 1 {
		v, names = v/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %s", v, names[0])
}

func num(n uint64) string { return fmt.Sprint(n) }

// at is a wall clock time in milliseconds since 1970 as text.
func at(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// seconds is a time span as people read it: to a tenth of a second.
func seconds(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }

// span is a number of milliseconds as text, "" for none.
func span[T int64 | uint64](ms T) string {
	if ms == 0 {
		return ""
	}
	return (time.Duration(ms) * time.Millisecond).String()
}
