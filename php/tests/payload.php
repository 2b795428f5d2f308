<?php
/**
 * What is decided before anything is sent, by promise.
 */

declare(strict_types=1);

use Handoffd\Handoff;

$prepare = static function (array $payload, array $options = []): Handoff {
    return Handoff::prepare($payload, $options);
};
$headersOf = static function (array $headers): array {
    return Handoff::prepare(['prompt' => 'hi', 'response_headers' => $headers])->payload()['response_headers'] ?? [];
};

return [
    'a payload is JSON as people write it' => static function (): void {
        $handoff = Handoff::prepare(['prompt' => "Grüße/\n\0\"", 'temperature' => 1.0, 'request_id' => 'r1']);
        $json = '{"prompt":"Grüße/\n\u0000\"","temperature":1.0,"request_id":"r1"}';
        same(['X-Socket-Handoff' => '/run/handoffd/handoffd.sock', 'X-Request-Id' => 'r1', 'X-Handoff-Data' => $json],
            $handoff->headers());
        same('', $handoff->body());
    },
    'a line of a header never ends early' => static function (): void {
        $handoff = Handoff::prepare(['prompt' => "a\r\nb\0c\u{2028}\u{85}\x0B", 'user_id' => "x\ny"]);
        foreach ($handoff->headers() as $name => $value) {
            same(0, preg_match('/[\x00-\x1F\x7F]/', $name . $value), $name);
        }
    },
    'an empty question is refused' => static function (): void {
        $empty = [[], ['prompt' => ''], ['prompt' => " \n\u{A0}"], ['messages' => []], ['system' => 'be nice'],
            ['prompt' => null], ['langgraph_input' => []], ['images' => [['base64' => 'aGk=']]]];
        foreach ($empty as $payload) {
            refused('EmptyQuestionException', static function () use ($payload): void {
                Handoff::prepare($payload);
            });
        }
    },
    'whatever else is a question is none to refuse' => static function (): void {
        $questions = [['prompt' => '0'], ['prompt' => 0], ['messages' => [['role' => 'user', 'content' => 'hi']]],
            ['langgraph_input' => new stdClass()], ['payload_file' => 'q.json'], ['method' => 'HEAD'],
            ['last_event_id' => 'r1:end'], ['messages' => new ArrayObject()]];
        foreach ($questions as $payload) {
            Handoff::prepare($payload);
        }
    },
    'what handoffd would refuse is refused here, by its key' => static function (): void {
        $bad = ['prompt' => [['prompt' => ['hi']], ['prompt' => true]], 'system' => [['system' => ['x']]],
            'messages' => [['messages' => ['role' => 'user', 'content' => 'hi']], ['messages' => 'hi']],
            'request_id' => [['request_id' => "a b"], ['request_id' => str_repeat('x', 129)], ['request_id' => []],
                ['request_id' => "r1\n"], ['request_id' => 'ü']],
            'response_headers' => [['response_headers' => 'X: 1'], ['response_headers' => ['X Y' => 1]],
                ['response_headers' => ['' => 1]], ['response_headers' => ["X\n" => 1]]],
            'response_headers.Content-Type' => [['response_headers' => ['Content-Type' => 'text/html']]],
            'response_headers.x-request-id' => [['response_headers' => ['x-request-id' => 'r2']]],
            'response_headers.X' => [['response_headers' => ['X' => "1\nY: 2"]], ['response_headers' => ['X' => [[]]]],
                ['response_headers' => ['X' => ["1\0"]]], ['response_headers' => ['X' => new stdClass()]]]];
        foreach ($bad as $key => $payloads) {
            foreach ($payloads as $payload) {
                $message = refused('InvalidPayloadException', static function () use ($payload): void {
                    Handoff::prepare($payload + ['prompt' => 'hi']);
                });
                same("$key:", substr($message, 0, strlen($key) + 1), $message);
            }
        }
    },
    'headers beyond handoffd\'s bounds are refused' => static function (): void {
        $many = array_fill_keys(array_map(static function (int $n): string {
            return "X-$n";
        }, range(1, 64)), '1');
        same(64, count(Handoff::prepare(['prompt' => 'hi', 'response_headers' => $many])
            ->payload()['response_headers']));
        foreach ([$many + ['X-65' => '1'], ['X' => str_repeat('x', 16380)]] as $headers) {
            refused('InvalidPayloadException', static function () use ($headers): void {
                Handoff::prepare(['prompt' => 'hi', 'response_headers' => $headers]);
            });
        }
    },
    'a header is a list of texts, whatever it was' => static function () use ($headersOf): void {
        same(['X-A' => ['true'], 'X-B' => ['1.5'], 'X-C' => ['a', 'b']],
            $headersOf(['X-A' => true, 'X-B' => 1.5, 'X-C' => ['a', null, 'b'], 'X-D' => null, 'X-E' => []]));
        $payload = Handoff::prepare(['prompt' => 'hi', 'response_headers' => ['X-D' => null]])->payload();
        holds(!array_key_exists('response_headers', $payload), 'none is left');
    },
    'text that is not UTF-8 is refused by its place, or mended when asked' => static function () use ($prepare): void {
        $payload = ['messages' => [['role' => 'user', 'content' => 'fine'], ['role' => 'user', 'content' => "\xE4"]]];
        $message = refused('EncodingException', static function () use ($prepare, $payload): void {
            $prepare($payload);
        });
        same('messages.1.content:', substr($message, 0, 19), $message);
        $handoff = $prepare($payload, ['invalid_utf8' => 'substitute']);
        holds(strpos($handoff->headers()['X-Handoff-Data'], "\"content\":\"\u{FFFD}\"") !== false, 'a substitute');
    },
    'bad text beside references in circles is refused, and not looked for without end' =>
        static function () use ($prepare): void {
            $values = ['bad' => (object) ['text' => "\xE4"]];
            $values['a'] = &$values;
            $values['b'] = &$values;
            refused('EncodingException', static function () use ($prepare, $values): void {
                $prepare(['prompt' => 'hi', 'extra_body' => $values]);
            });
        },
    'what JSON cannot say is refused' => static function () use ($prepare): void {
        $loop = [];
        $loop['loop'] = &$loop;
        foreach ([NAN, INF, STDIN, $loop] as $value) {
            refused('EncodingException', static function () use ($prepare, $value): void {
                $prepare(['prompt' => 'hi', 'extra_body' => ['x' => $value]]);
            });
        }
    },
    'messages with gaps stay a list' => static function () use ($prepare): void {
        $messages = array_filter([null, ['role' => 'user', 'content' => 'hi']]);
        same([['role' => 'user', 'content' => 'hi']], $prepare(['messages' => $messages])->payload()['messages']);
    },
    'a payload goes in the header while it is small, else in the body' => static function () use ($prepare): void {
        $frame = strlen('{"prompt":"","request_id":"r1"}');
        foreach ([4096 - $frame => false, 4097 - $frame => true] as $length => $inBody) {
            $handoff = $prepare(['prompt' => str_repeat('x', $length), 'request_id' => 'r1']);
            same($inBody, $handoff->body() !== '', "$length");
            same($inBody ? '1' : null, $handoff->headers()['X-Handoff-Body'] ?? null);
            same($inBody, !isset($handoff->headers()['X-Handoff-Data']));
        }
        holds($prepare(['prompt' => "\x7F"])->body() !== '', 'a byte that no header has');
        holds($prepare(['prompt' => 'hi'], ['via' => 'body'])->body() !== '', 'forced');
        same('', $prepare(['prompt' => str_repeat('x', 7000)], ['via' => 'header'])->body(), 'forced');
    },
    'a payload too large for its way is refused' => static function () use ($prepare): void {
        ini_set('memory_limit', '512M');
        foreach ([['header', 8001], ['auto', 33554432]] as [$via, $length]) {
            refused('PayloadTooLargeException', static function () use ($prepare, $via, $length): void {
                $prepare(['prompt' => str_repeat('x', $length)], ['via' => $via]);
            });
        }
    },
    'every handoff has an id: its own, else Apache\'s, else a random one' => static function () use ($prepare): void {
        $first = $prepare(['prompt' => 'hi'])->requestId();
        same(1, preg_match('/\A[0-9a-f]{24}\z/', $first), $first);
        holds($first !== $prepare(['prompt' => 'hi'])->requestId(), 'another one each time');
        same('17', $prepare(['prompt' => 'hi', 'request_id' => 17])->headers()['X-Request-Id']);
        $_SERVER['UNIQUE_ID'] = 'ZxY@-1';
        same('ZxY@-1', $prepare(['prompt' => 'hi', 'request_id' => ''])->payload()['request_id']);
        same('r1', $prepare(['prompt' => 'hi', 'request_id' => 'r1'])->payload()['request_id']);
    },
    'what the request says is passed on, unless the page says otherwise' => static function () use ($prepare): void {
        $_SERVER = ['HTTP_LAST_EVENT_ID' => 'r0:7', 'REMOTE_ADDR' => '203.0.113.9', 'HTTP_TRACEPARENT' => '00-1-2-01',
            'HTTP_ORIGIN' => 'https://example.org', 'SERVER_PROTOCOL' => 'HTTP/1.1', 'REQUEST_METHOD' => 'POST']
            + $_SERVER;
        $expected = ['prompt' => 'hi', 'client_ip' => '10.0.0.1', 'origin' => null, 'request_id' => 'r1',
            'last_event_id' => 'r0:7', 'traceparent' => '00-1-2-01', 'proto' => 'HTTP/1.1'];
        same($expected, $prepare(['prompt' => 'hi', 'client_ip' => '10.0.0.1', 'origin' => null,
            'request_id' => 'r1'])->payload());
    },
    'a browser\'s nonsense is no reason to refuse its question' => static function () use ($prepare): void {
        $_SERVER['HTTP_LAST_EVENT_ID'] = "\xFF";
        $_SERVER['HTTP_TRACEPARENT'] = str_repeat('0', 129);
        $_SERVER['HTTP_ORIGIN'] = "a\tb";
        same(['prompt' => 'hi', 'request_id' => 'r1'], $prepare(['prompt' => 'hi', 'request_id' => 'r1'])->payload());
    },
    'HEAD asks nobody, and fits a header' => static function () use ($prepare): void {
        $_SERVER['REQUEST_METHOD'] = 'HEAD';
        $handoff = $prepare(['prompt' => str_repeat('x', 9000), 'messages' => [['content' => 'hi']], 'user_id' => 7,
            'request_id' => 'r1'], ['via' => 'body']);
        same(['user_id' => 7, 'request_id' => 'r1', 'method' => 'HEAD'], $handoff->payload());
        same('', $handoff->body());
    },
    'the socket is the option, else the environment\'s, else the usual one' => static function () use ($prepare): void {
        $socket = static function (array $options = []) use ($prepare): string {
            return $prepare(['prompt' => 'hi'], $options)->headers()['X-Socket-Handoff'];
        };
        same('/run/handoffd/handoffd.sock', $socket());
        putenv('HANDOFFD_SOCKET= /run/a.sock ,/run/b.sock');
        same('/run/a.sock, /run/b.sock', $socket());
        same('/run/c.sock', $socket(['socket' => '/run/c.sock']));
        same('/run/d.sock, /run/e.sock', $socket(['socket' => ['/run/d.sock', '/run/e.sock']]));
        putenv('HANDOFFD_SOCKET=run/a.sock');
        holds(strpos(refused('InvalidOptionException', $socket), 'HANDOFFD_SOCKET: ') === 0, 'the variable is named');
    },
    'what is no path of a socket is refused' => static function () use ($prepare): void {
        $paths = ['', 'a.sock', '/', "/a\n", '/a,/b', '/' . str_repeat('x', 107), '/a ', [], [null], 7, ['/a', '']];
        foreach ($paths as $bad) {
            refused('InvalidOptionException', static function () use ($prepare, $bad): void {
                $prepare(['prompt' => 'hi'], ['socket' => $bad]);
            });
        }
    },
    'options that do not exist are refused' => static function () use ($prepare): void {
        $options = [['sockets' => '/a'], ['via' => 'pigeon'], ['invalid_utf8' => true], ['forward_headers' => 1]];
        foreach ($options as $bad) {
            refused('InvalidOptionException', static function () use ($prepare, $bad): void {
                $prepare(['prompt' => 'hi'], $bad);
            });
        }
    },
    'the command line is told that it has no client' => static function () use ($prepare): void {
        refused('NoModuleException', static function () use ($prepare): void {
            $prepare(['prompt' => 'hi'])->send();
        });
    },
];
