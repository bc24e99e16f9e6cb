package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/scopefile"
)

const (
	// maxChunkItems is the server's own bound of one batch.
	maxChunkItems = 10_000
	// maxChunkBytes keeps a chunk, counted as JSON, below the 1 MiB of a log entry.
	maxChunkBytes = 700 << 10
	// useChunks is what to do about a file that is too large for one batch.
	useChunks = "apply it with --chunks, which is not atomic"
)

// readFile reads and parses a scope file, "-" is the standard input.
func (c *cli) readFile(name string) (scopefile.File, error) {
	var data []byte
	var err error
	if name == "-" {
		data, err = io.ReadAll(io.LimitReader(c.in, scopefile.MaxFile+1))
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return scopefile.File{}, invalid("the scope file cannot be read: %v", err)
	}
	f, warnings, err := scopefile.Parse(name, data)
	if err == nil {
		c.warn(warnings)
	}
	return f, err
}

func (c *cli) scopePlanCmd() *cobra.Command {
	var file string
	var prune bool
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "Show what a scope file would change",
		Long: `Show what applying a scope file would change, as + ~ and -, and the index of that
look. Nothing is changed. Give the index to apply as --check-index.`,
		Example: "  scope-registry scope plan -f examples/scopes.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := c.readFile(file)
			if err != nil {
				return err
			}
			b := f.Batch(prune, nil)
			if err := oneBatch(b); err != nil {
				return err
			}
			b.DryRun = true
			cl := c.dial()
			defer cl.Close()
			a, err := cl.Apply(cmd.Context(), b)
			if err != nil {
				return tooLarge(err)
			}
			if a.Plan == nil {
				return &api.Error{Code: api.Internal, Detail: "the server answered a dry run without a plan"}
			}
			return c.show(a.Plan, func() error { return c.planLines(a.Plan) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "scope file, - for the standard input")
	cmd.Flags().BoolVar(&prune, "prune", false, "also remove what the file does not name")
	_ = cmd.MarkFlagRequired("file")
	return cmd
}

func (c *cli) planLines(p *api.Plan) error {
	rows := make([][]string, 0, len(p.Changes))
	for _, ch := range p.Changes {
		what := ch.Before + ch.After
		if ch.Before != "" && ch.After != "" {
			what = ch.Before + " -> " + ch.After
		}
		rows = append(rows, []string{ch.Op, ch.Kind, ch.Name, what})
	}
	if err := c.table("", rows); err != nil {
		return err
	}
	for _, k := range p.Kept {
		if err := c.printf("kept: %s\n", k); err != nil {
			return err
		}
	}
	return c.printf("%d changes at index %d; apply just this with --check-index %d\n", len(p.Changes), p.Index, p.Index)
}

// oneBatch refuses a file that is too large for one entry. The bytes are left
// to the server, which knows the size of its entries.
func oneBatch(b api.Batch) error {
	if n := len(b.Nodes) + len(b.Scopes); n > maxChunkItems {
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf(
			"the file has %d nodes and scopes, one batch takes %d; %s", n, maxChunkItems, useChunks)}
	}
	return nil
}

// tooLarge adds to the server's word that a batch has too many bytes what to do.
func tooLarge(err error) error {
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.TooLarge {
		e.Detail += "; " + useChunks
	}
	return err
}

func (c *cli) scopeApplyCmd() *cobra.Command {
	var file string
	var index uint64
	var prune, chunks bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Apply a scope file as one atomic change",
		Long: `Apply a scope file as one atomic change: all of it, or nothing. Nothing is
deleted without --prune. A change of owner is refused and the move that is
needed is named (EXISTS, exit 4). A file over 10,000 nodes and scopes, or over
one log entry, needs --chunks, which is not atomic.`,
		Example: "  scope-registry scope apply -f examples/scopes.toml --check-index 42",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var ifIndex *uint64
			if cmd.Flags().Changed("check-index") {
				ifIndex = &index
			}
			if chunks && (prune || ifIndex != nil) {
				return invalid("--chunks is not atomic and cannot be used with --prune or --check-index; leave one out")
			}
			f, err := c.readFile(file)
			if err != nil {
				return err
			}
			b := f.Batch(prune, ifIndex)
			cl := c.dial()
			defer cl.Close()
			if chunks {
				return c.applyChunks(cmd, cl, b)
			}
			if err := oneBatch(b); err != nil {
				return err
			}
			return c.applyOne(cmd, cl, b)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "scope file, - for the standard input")
	cmd.Flags().Uint64Var(&index, "check-index", 0, "refuse if nodes or scopes changed after this index, see plan")
	cmd.Flags().BoolVar(&prune, "prune", false, "also remove what the file does not name")
	cmd.Flags().BoolVar(&chunks, "chunks", false, "apply a large file in several batches; not atomic")
	_ = cmd.MarkFlagRequired("file")
	return c.reasonFlag(cmd)
}

func (c *cli) applyOne(cmd *cobra.Command, cl *client.Client, b api.Batch) error {
	a, err := cl.Apply(cmd.Context(), b)
	if err != nil {
		return tooLarge(err)
	}
	if a.Applied == nil {
		a.Applied = &api.Applied{}
	}
	c.warn(a.Warnings)
	return c.show(a.Applied, func() error { return c.printf("applied %d changes at index %d\n", a.Changed, a.Index) })
}

func (c *cli) applyChunks(cmd *cobra.Command, cl *client.Client, b api.Batch) error {
	parts, err := chunk(b)
	if err != nil {
		return err
	}
	c.remark("applying in %d batches; this is not atomic: an error leaves the batches before it applied", len(parts))
	var sum api.Applied
	for i, part := range parts {
		a, err := cl.Apply(cmd.Context(), part)
		if err != nil {
			c.remark("batch %d of %d failed; the %d before it are applied", i+1, len(parts), i)
			return err
		}
		if a.Applied != nil {
			c.warn(a.Warnings)
			sum.Index, sum.Changed = a.Index, sum.Changed+a.Changed
		}
		c.remark("batch %d of %d applied at index %d", i+1, len(parts), sum.Index)
	}
	return c.show(sum, func() error { return c.printf("applied %d changes at index %d\n", sum.Changed, sum.Index) })
}

// chunk cuts a batch into such as one entry takes; nodes come first, since
// scopes name them.
func chunk(b api.Batch) ([]api.Batch, error) {
	var parts []api.Batch
	var cur api.Batch
	items, bytes := 0, 0
	add := func(v any, put func()) error {
		data, err := json.Marshal(v)
		if err != nil {
			return invalid("an entry cannot be written as JSON: %v", err)
		}
		if items == maxChunkItems || items > 0 && bytes+len(data) > maxChunkBytes {
			parts = append(parts, cur)
			cur, items, bytes = api.Batch{}, 0, 0
		}
		put()
		items, bytes = items+1, bytes+len(data)
		return nil
	}
	for _, n := range b.Nodes {
		if err := add(n, func() { cur.Nodes = append(cur.Nodes, n) }); err != nil {
			return nil, err
		}
	}
	for _, s := range b.Scopes {
		if err := add(s, func() { cur.Scopes = append(cur.Scopes, s) }); err != nil {
			return nil, err
		}
	}
	if items > 0 {
		parts = append(parts, cur)
	}
	return parts, nil
}
