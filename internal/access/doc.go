// Package access says who asks and what they may do. It holds the one table of calls and roles; front ends, the state
// machine and SECURITY.md go by it. It authenticates nobody: whoever looks at a certificate or a token makes a [Who] of it.
package access
