package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	defaultEndpoint = "http://127.0.0.1:7481"
	envEndpoints    = "SCOPE_REGISTRY_ENDPOINTS"
)

// cli is what all commands of one run share.
type cli struct {
	in       io.Reader
	out, err io.Writer

	endpoints []string
	format    string
	timeout   time.Duration
	quiet     bool
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{in: stdin, out: stdout, err: stderr}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return c.fail(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "scope-registry",
		Short:         "A replicated registry of who may write which keys",
		Example:       "  scope-registry dev --apply examples/scopes.toml\n  scope-registry route app:billing:1 --as embed-billing-1",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.check() },
		Args:              cobra.NoArgs,
		RunE:              noVerb,
	}
	f := root.PersistentFlags()
	f.StringSliceVar(&c.endpoints, "endpoints", nil, "servers to ask, in turn (env "+envEndpoints+", default "+defaultEndpoint+")")
	f.StringVarP(&c.format, "output", "o", "table", "how to print: table, json or jsonl")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "longest time for one request, all its tries together")
	f.BoolVar(&c.quiet, "quiet", false, "print no warnings and no remarks")
	root.AddCommand(c.serveCmd(), c.devCmd(), c.healthCmd(), c.scopeCmd(), c.routeCmd(), c.explainCmd(), c.nodeCmd(),
		c.moveCmd(), c.clusterCmd(), c.watchCmd(), c.versionCmd())
	// cobra adds its completion command when it runs; adding it here gives it an example like all others.
	root.InitDefaultCompletionCmd()
	for _, sub := range root.Commands() {
		if sub.Name() == "completion" {
			eachCommand(sub, func(s *cobra.Command) {
				if s.Example == "" {
					s.Example = "  source <(scope-registry completion bash)"
				}
			})
		}
	}
	return root
}

func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, f)
	}
}

func (c *cli) check() error {
	if c.format != "table" && c.format != "json" && c.format != "jsonl" {
		bad := c.format
		c.format = "table"
		return invalid("-o %q is not known; use table, json or jsonl", bad)
	}
	if c.timeout <= 0 {
		return invalid("--timeout %v is not a time to wait; give one like 10s", c.timeout)
	}
	return nil
}

// noVerb is what a group without a verb does: help, and an error for a word it does not know.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return invalid("%s has no command %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return cmd.Help()
}

// group makes a command that only holds others.
func group(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs, RunE: noVerb}
	g.AddCommand(subs...)
	return g
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf(format, args...)}
}

// fail prints the error and returns its exit code. Errors that are none of ours
// come from cobra: the command line is wrong.
func (c *cli) fail(err error) int {
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	if c.format == "table" {
		_, _ = fmt.Fprintf(c.err, "scope-registry: %s: %s\n", e.Code, e.Detail)
		c.warn(e.Warnings)
	} else {
		data, _ := json.Marshal(struct {
			*api.Error
			Status  int         `json:"status"`
			Outcome api.Outcome `json:"outcome"`
		}{e, e.Code.HTTPStatus(), e.Code.Outcome()})
		_, _ = fmt.Fprintf(c.err, "%s\n", data)
	}
	return e.Code.ExitCode()
}

func (c *cli) warn(warnings []string) {
	for _, w := range warnings {
		c.remark("warning: %s", w)
	}
}

// remark says something that is not the answer.
func (c *cli) remark(format string, args ...any) {
	if !c.quiet {
		_, _ = fmt.Fprintf(c.err, format+"\n", args...)
	}
}

// dial makes the client of the flags; flag > environment > default.
func (c *cli) dial() *client.Client {
	endpoints := c.endpoints
	if len(endpoints) == 0 {
		endpoints = strings.FieldsFunc(os.Getenv(envEndpoints), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(endpoints) == 0 {
		endpoints = []string{defaultEndpoint}
	}
	actor := "cli"
	if user := os.Getenv("USER"); user != "" {
		actor += ":" + user
	}
	return client.New(endpoints, client.WithTimeout(c.timeout), client.WithActor(actor))
}

func parsePrefix(text string) (scope.Prefix, error) {
	p, err := scope.ParsePrefix(text)
	if err != nil {
		return "", invalid("prefix: %v", err)
	}
	return p, nil
}

func parseKey(text string) ([]byte, error) {
	raw, err := scope.ParseBytes(text)
	if err != nil {
		return nil, invalid("key: %v", err)
	}
	return []byte(raw), nil
}
