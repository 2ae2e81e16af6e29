# Makes the table, or with json=1 one JSON object for each server and number of connections, of lines with these fields:
# server, connections, requests a second, p50, p99, and µs of processor a request: server's, supervisor's, workers', wrk's.
BEGIN {
  FS = "\t"
  split("requests_per_second p50_us p99_us cpu_us supervisor_cpu_us workers_cpu_us load_cpu_us", names, " ")
  bare = "bare axum"
}

{
  if (!(($1) in servers)) { servers[$1]; order[++server_count] = $1 }
  if (!(($2) in numbers)) { numbers[$2]; connections[++number_count] = $2 }
  round = ++rounds[$1, $2]
  for (i = 1; i <= 7; i++) all[$1, $2, i, round] = $(i + 2)
}

# Sets median, least and most of the rounds; with bare_too, of what they are to the bare server's of the same round.
function summarise(server, number, i, bare_too,    count, at, back, value, beside, sorted) {
  count = rounds[server, number]
  for (at = 1; at <= count; at++) {
    value = all[server, number, i, at] + 0
    if (bare_too) {
      beside = all[bare, number, i, at] + 0
      value = beside > 0 ? value / beside : 0
    }
    for (back = at; back > 1 && sorted[back - 1] > value; back--) sorted[back] = sorted[back - 1]
    sorted[back] = value
  }
  least = sorted[1]
  most = sorted[count]
  median = count % 2 ? sorted[(count + 1) / 2] : (sorted[count / 2] + sorted[count / 2 + 1]) / 2
}

function has(server, i) { return server == "cofferdam" || (i != 5 && i != 6) }

function cell(server, number, i,    form) {
  summarise(server, number, i, 0)
  form = i <= 3 ? "%.0f" : "%.1f"
  return sprintf(form " [" form ".." form "]", median, least, most)
}

function ratio(server, number, i) {
  summarise(server, number, i, 1)
  return sprintf("%.2f [%.2f..%.2f]", median, least, most)
}

function table(number,    at, server) {
  printf "\n%-16s %-26s %-20s %-20s %-24s %s\n", number (number == 1 ? " connection" : " connections"), "requests/s", \
    "p50, us", "p99, us", "CPU a request, us", "wrk's CPU, us"
  for (at = 1; at <= server_count; at++) {
    server = order[at]
    printf "%-16s %-26s %-20s %-20s %-24s %s\n", server, cell(server, number, 1), cell(server, number, 2), \
      cell(server, number, 3), cell(server, number, 4), cell(server, number, 7)
    if (server == "cofferdam") {
      printf "%-16s %-26s %-20s %-20s %s\n", "  supervisor", "", "", "", cell(server, number, 5)
      printf "%-16s %-26s %-20s %-20s %s\n", "  workers", "", "", "", cell(server, number, 6)
    }
  }
  print "to the bare server's of the same round:"
  for (at = 1; at <= server_count; at++) {
    server = order[at]
    if (server == bare) continue
    printf "%-16s %-26s %-20s %-20s %s\n", server, ratio(server, number, 1), ratio(server, number, 2), \
      ratio(server, number, 3), ratio(server, number, 4)
  }
}

function object(server, number,    i, separator) {
  printf "{\"server\":\"%s\",\"connections\":%d,\"rounds\":%d", server, number, rounds[server, number]
  for (i = 1; i <= 7; i++) {
    if (!has(server, i)) continue
    summarise(server, number, i, 0)
    printf ",\"%s\":{\"median\":%.6g,\"min\":%.6g,\"max\":%.6g}", names[i], median, least, most
  }
  printf ",\"to_bare\":{"
  for (i = 1; i <= 4; i++) {
    summarise(server, number, i, 1)
    printf "%s\"%s\":{\"median\":%.4g,\"min\":%.4g,\"max\":%.4g}", separator, names[i], median, least, most
    separator = ","
  }
  printf "}}\n"
}

END {
  for (nth = 1; nth <= number_count; nth++) {
    if (!json) table(connections[nth])
    else for (at = 1; at <= server_count; at++) object(order[at], connections[nth])
  }
}
