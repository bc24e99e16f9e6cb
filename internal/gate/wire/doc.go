// Package wire finds where requests and replies of the Redis protocol begin and end, in place: nothing is copied, decoded or
// encoded. What is whole is forwarded as it came, so that both sides must agree on its end: whatever two readers might take
// differently is refused.
package wire
