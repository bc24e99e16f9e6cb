package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	defaultEndpoint = "http://127.0.0.1:7481"
	secureEndpoint  = "https://127.0.0.1:7481"
	envEndpoints    = "SCOPE_REGISTRY_ENDPOINTS"
	envToken        = "SCOPE_REGISTRY_TOKEN"
)

// cli is what all commands of one run share.
type cli struct {
	in       io.Reader
	out, err io.Writer

	endpoints []string
	// Files; of serve, the server's own.
	cacert, cert, key string
	tokenFile         string
	plainToken        bool
	format            string
	timeout           time.Duration
	quiet             bool
	reason            string // why a change is asked for, of commands that have the flag

	typed func() bool // whether standard input is a terminal
	width func() int  // columns of the terminal that standard error is, 0 if it is none
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{in: stdin, out: stdout, err: stderr, width: func() int { return columns(stderr) }, typed: func() bool { return isTerminal(stdin) }}
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
		Use:   "scope-registry",
		Short: "A replicated registry of who may write which keys",
		Long: `A replicated registry of who may write which keys.

The answer is on standard output, everything else on standard error.
Exit codes: 0 done, 1 internal error, 2 a wrong value or flag, 3 not found,
4 refused in this state (or a move was aborted), 5 no leader or not reachable,
6 timeout of a read or wait, 7 not allowed, 8 the outcome of a change is not
known, 9 damaged data.`,
		Example:       "  scope-registry dev --apply examples/scopes.toml\n  scope-registry route app:billing:1 --as embed-billing-1",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.check() },
		RunE:              noVerb,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	f := root.PersistentFlags()
	f.StringSliceVar(&c.endpoints, "endpoints", nil, "servers to ask, in turn (env "+envEndpoints+", default "+defaultEndpoint+")")
	f.StringVar(&c.cacert, "cacert", "", "authorities whose certificates are trusted, in PEM (env "+envPrefix+"CACERT)")
	f.StringVar(&c.cert, "cert", "", "certificate to show, in PEM (env "+envPrefix+"CERT)")
	f.StringVar(&c.key, "key", "", "its private key (env "+envPrefix+"KEY)")
	f.StringVar(&c.tokenFile, "token-file", "", "file with the token to show (env "+envToken+"_FILE, or the token itself in "+envToken+")")
	f.BoolVar(&c.plainToken, "plain-token", false, "show the token to other machines also without TLS, where it can be read on the way")
	f.StringVarP(&c.format, "output", "o", "table", "how to print: table, json or jsonl")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "longest time for one request, all its tries together")
	f.BoolVar(&c.quiet, "quiet", false, "print no warnings, remarks and progress")
	root.AddCommand(c.serveCmd(), c.devCmd(), c.healthCmd(), c.scopeCmd(), c.routeCmd(), c.explainCmd(), c.nodeCmd(), c.gateCmd(),
		c.moveCmd(), c.clusterCmd(), c.tokenCmd(), c.backupCmd(), c.certsCmd(), c.watchCmd(), c.versionCmd())
	root.SetHelpCommand(helpCmd(root))
	// cobra adds its completion command when it runs; here it is treated as all others.
	root.InitDefaultCompletionCmd()
	for _, sub := range root.Commands() {
		if sub.Name() == "completion" {
			sub.RunE = noVerb
			eachCommand(sub, func(s *cobra.Command) { s.Example = completionExample(s.Name()) })
		}
	}
	eachCommand(root, func(cmd *cobra.Command) {
		words := positional(cmd)
		cmd.Args = exactly(words)
		c.complete(cmd, words)
	})
	return root
}

// completionExample is how a shell takes its script.
func completionExample(shell string) string {
	switch shell {
	case "zsh":
		return "  source <(scope-registry completion zsh)"
	case "fish":
		return "  scope-registry completion fish | source"
	case "powershell":
		return "  scope-registry completion powershell | Out-String | Invoke-Expression"
	}
	return "  source <(scope-registry completion bash)"
}

// helpCmd is cobra's, but for an error where there is no such command.
func helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND ...]", Short: "Show what a command does", Long: "Show what a command does, its flags and an example, as --help does.",
		Example: "  scope-registry help move start",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return invalid("there is no command %q; see scope-registry --help", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// positional are the words that a command takes, as its usage line names them:
// those in capitals before the first flag. A command that holds others, and
// help, look at their words themselves.
func positional(cmd *cobra.Command) []string {
	var words []string
	for _, w := range strings.Fields(cmd.Use)[1:] {
		if w != strings.ToUpper(w) || strings.HasPrefix(w, "-") {
			break
		}
		words = append(words, w)
	}
	return words
}

// exactly demands these words, and names the one that is missing or too much.
func exactly(words []string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case cmd.HasSubCommands():
			return nil // noVerb names the word it does not know
		case len(args) < len(words) && !strings.HasPrefix(words[len(args)], "["):
			return invalid("%s is missing; usage: %s", words[len(args)], cmd.UseLine())
		case len(args) > len(words):
			return invalid("%q is one word too many; usage: %s", args[len(words)], cmd.UseLine())
		}
		return nil
	}
}

// flagError says of a value that is no number or truth value only that, without
// the function that found out.
func flagError(err error) error {
	var at *strconv.NumError
	if !errors.As(err, &at) {
		return invalid("%v", err)
	}
	return invalid("%s", strings.ReplaceAll(err.Error(), at.Error(), at.Err.Error()))
}

func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, f)
	}
}

func (c *cli) check() error {
	if c.format != "table" && c.format != "json" && c.format != "jsonl" {
		return invalid("-o %q is not known; use table, json or jsonl", c.format)
	}
	if c.timeout <= 0 {
		return invalid("--timeout %v is not a time to wait; give one like 10s", c.timeout)
	}
	return nil
}

// noVerb is what a group without a verb does: help, and an error for a word it does not know.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %s?)", strings.Join(near, " or "))
	}
	return invalid("%s has no command %q%s; see %s --help", cmd.CommandPath(), args[0], hint, cmd.CommandPath())
}

// group makes a command that only holds others.
func group(use, short, long, example string, subs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Long: long[1:], Example: example, RunE: noVerb}
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
	if c.format != "json" && c.format != "jsonl" {
		_, _ = fmt.Fprintf(c.err, "scope-registry: %s: %s\n", e.Code, printable(e.Detail, "\n"))
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
		c.remark("warning: %s", printable(w, ""))
	}
}

// remark says something that is not the answer.
func (c *cli) remark(format string, args ...any) {
	if !c.quiet {
		_, _ = fmt.Fprintf(c.err, format+"\n", args...)
	}
}

// dial makes the client of the flags.
func (c *cli) dial() *client.Client { return c.dialFor(c.timeout) }

// dialFor makes a client with this timeout; flag > environment > default.
func (c *cli) dialFor(timeout time.Duration) *client.Client {
	endpoints := c.endpoints
	if len(endpoints) == 0 {
		endpoints = strings.FieldsFunc(os.Getenv(envEndpoints), func(r rune) bool { return r == ',' || r == ' ' })
	}
	opts, secure := c.credentials()
	if len(endpoints) == 0 {
		endpoints = []string{defaultEndpoint}
		if secure {
			endpoints = []string{secureEndpoint}
		}
	}
	actor := "cli"
	if user := os.Getenv("USER"); user != "" {
		actor += ":" + user
	}
	return client.New(endpoints, append(opts, client.WithTimeout(timeout), client.WithActor(actor), client.WithReason(c.reason))...)
}

// reasonFlag gives a command that changes something the flag --reason.
func (c *cli) reasonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&c.reason, "reason", "", "why, for the audit (see cluster audit)")
	return cmd
}

// credentials are what the flags, and then the environment, say of TLS and of the token. secure is true if there is something
// about TLS.
func (c *cli) credentials() (opts []client.Option, secure bool) {
	given := func(flag, name string) string { return cmp.Or(flag, os.Getenv(envPrefix+name)) }
	files := client.TLS{CA: given(c.cacert, "CACERT"), Cert: given(c.cert, "CERT"), Key: given(c.key, "KEY")}
	if secure = files != (client.TLS{}); secure {
		opts = append(opts, client.WithTLS(files))
	}
	if file := given(c.tokenFile, "TOKEN_FILE"); file != "" {
		opts = append(opts, client.WithToken(client.TokenFile(file)))
	} else if text := os.Getenv(envToken); text != "" {
		opts = append(opts, client.WithToken(func() (string, error) {
			_, err := access.ParseToken(text)
			return text, err
		}))
	}
	if c.plainToken {
		opts = append(opts, client.WithPlainToken())
	}
	return opts, secure
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
