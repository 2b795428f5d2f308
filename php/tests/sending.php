<?php
/**
 * What arrives at whoever reads PHP's response, by promise.
 */

declare(strict_types=1);

$server = new Server();

return [
    'a small payload arrives as a header, and nothing besides' => static function () use ($server): void {
        $answer = $server->ask('/plain');
        same('hi', $answer->payload()['prompt']);
        same('r1', $answer->header('x-request-id'));
        same('/run/handoffd/handoffd.sock', $answer->header('x-socket-handoff'));
        same('127.0.0.1', $answer->payload()['client_ip']);
    },
    'a large payload arrives as the body' => static function () use ($server): void {
        $answer = $server->ask('/large');
        same(str_repeat('ü', 5000), $answer->payload()['prompt']);
        same('application/json', $answer->header('content-type'));
        same('r1', $answer->header('x-request-id'));
    },
    'every text arrives as it was' => static function () use ($server): void {
        $prompts = ["a\0b", "a\r\nX-B: 1", "\u{2028}\u{1F600}", "\x01\x1F\x7F", '"\\/</script>',
            'x' . str_repeat("\n", 4000), str_repeat('x', 300000)];
        foreach ($prompts as $prompt) {
            foreach (['auto', 'body'] as $via) {
                $asked = ['payload' => ['prompt' => $prompt], 'options' => ['via' => $via]];
                $answer = $server->ask('/given', [], 'POST', json_encode($asked, JSON_THROW_ON_ERROR));
                same($prompt, $answer->payload()['prompt']);
            }
        }
    },
    'what is printed before, at shutdown and by destructors never arrives' => static function (): void {
        $server = new Server(['output_buffering' => '4096']);
        foreach (['/noisy', '/noisy?small'] as $page) {
            $answer = $server->ask($page);
            same('r1', $answer->payload()['request_id'], $page);
            holds($server->logs('SHUTDOWN RAN'), 'shutdown functions run');
        }
    },
    'a compressed site sends its payload as it is' => static function (): void {
        $server = new Server(['zlib.output_compression' => '1']);
        $answer = $server->ask('/large', ['Accept-Encoding: gzip']);
        same(null, $answer->header('content-encoding'));
        same('r1', $answer->payload()['request_id']);
    },
    'a response that has begun is named by file and line' => static function () use ($server): void {
        $body = $server->ask('/sent')->body;
        holds(preg_match('#^too earlyHandoffd.HeadersSentException: .*/page\.php, line \d+:#', $body) === 1, $body);
    },
    'a buffer that cannot be removed is refused' => static function () use ($server): void {
        $answer = $server->ask('/stubborn');
        same(500, $answer->status);
        same('Handoffd\OutputBufferException: ', substr($answer->body, 0, 32), $answer->body);
        same(null, $answer->header('x-socket-handoff'));
    },
    'what the page has set goes to the client, but for what handoffd sets' => static function () use ($server): void {
        $answer = $server->ask('/headers');
        $headers = $answer->payload()['response_headers'];
        same(['theme=dark; path=/', 'lang=de', 'a=1', 'b=2'], $headers['set-cookie']);
        unset($headers['set-cookie']);
        same(['Access-Control-Allow-Origin' => ['https://example.org'],
            'Content-Security-Policy' => ["default-src 'self'; img-src *"], 'vary' => ['Cookie'],
            'X-Number' => ['7']], $headers);
    },
    'nothing of the page is left by which Apache would answer otherwise' => static function () use ($server): void {
        $answer = $server->ask('/headers');
        same(200, $answer->status);
        foreach (['location', 'etag', 'last-modified', 'content-length', 'x-handoff-body'] as $name) {
            same(null, $answer->header($name), $name);
        }
        same('hi', $answer->payload()['prompt']);
    },
    'a page may keep its headers to itself' => static function () use ($server): void {
        $headers = $server->ask('/headers?alone')->payload()['response_headers'];
        same(['vary' => ['Cookie'], 'X-Number' => ['7'], 'set-cookie' => ['a=1', 'b=2']], $headers);
    },
    'the session is written and closed, and its cookie reaches the client' => static function () use ($server): void {
        $headers = $server->ask('/session?who=me')->payload()['response_headers'];
        same(['Set-Cookie'], array_keys($headers));
        $cookie = explode(';', $headers['Set-Cookie'][0])[0];
        same('PHPSESSID=', substr($cookie, 0, 10));
        holds($server->logs('SESSION closed'), 'closed before shutdown functions');
        $payload = $server->ask('/session?who=you', ["Cookie: $cookie"])->payload();
        same('question 2 of you', $payload['prompt']);
        unlink(sys_get_temp_dir() . '/sess_' . substr($cookie, 10));
    },
    'HEAD is handed over without a body' => static function () use ($server): void {
        $payload = $server->ask('/large', [], 'HEAD')->payload();
        same('HEAD', $payload['method']);
        same(null, $payload['prompt'] ?? null);
    },
    'what EventSource has seen is passed on' => static function () use ($server): void {
        $answer = $server->ask('/plain', ['Last-Event-ID: r0:end', 'Origin: https://example.org']);
        same(['r0:end', 'https://example.org'], [$answer->payload()['last_event_id'], $answer->payload()['origin']]);
    },
    'a page may go on after send()' => static function () use ($server): void {
        same('r1', $server->ask('/returns')->payload()['request_id']);
        holds($server->logs('SEND RETURNED'), 'the page goes on');
    },
];
