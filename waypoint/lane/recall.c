/* SPDX-License-Identifier: Apache-2.0 */
/* Requests under way when policy changes: told to Python, which says what has to end. */
#include "internal.h"

static struct client *answered_by_a_server(struct link *link)
{
	struct client *client = (struct client *)link;

	return link->kind == CLIENT && !link->dead && client->entry && client->server ? client : NULL;
}

size_t lane_list_under_way(struct lane *lane, struct lane_under_way *into, size_t room)
{
	size_t found = 0;

	lane->now = lane_clock();
	for (struct link *link = lane->links; link; link = link->next) {
		struct client *client = answered_by_a_server(link);

		if (!client)
			continue;
		if (found < room)
			into[found] = (struct lane_under_way){
				.origin = client->origin,
				.entry = client->entry->id,
				.target = client->target->id,
				.received = client->received,
				.sent = client->sent,
				.seconds = lane->now - client->started_at,
				.answered_s = client->answered_at - client->started_at,
				.status = client->server->in_body ? client->status : 0,
				.head_bytes = (uint32_t)client->request_head,
				.head = client->request.at,
			};
		found++;
	}
	return found;
}

void lane_take_back(struct lane *lane, uint64_t origin)
{
	struct client *client = NULL;

	lane->now = lane_clock();
	for (struct link *link = lane->links; link && !client; link = link->next) {
		client = answered_by_a_server(link);
		if (client && client->origin != origin)
			client = NULL;
	}
	if (!client)
		return;
	if (client->server->in_body)
		lane_client_cut(lane, client);
	else
		lane_adopt(lane, client, client->server, client->server->in.at,
			   client->server->in.length, LANE_UNUSUAL_ANSWER);
	lane_settle(lane);
}
