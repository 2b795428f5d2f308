<?php

declare(strict_types=1);

// What the pages of the demo share: who is signed in, what is a good question, errors as JSON.
// A real site has its own; nothing here is needed for handoffd.

const QUESTION_BYTES_MAX = 1048576;
const MESSAGES_MAX = 200;
const TICKETS_MAX = 8;

/** Continues the visitor's session. Its cookie goes to no other site's requests. */
function open_session(): void
{
    session_start([
        'name' => 'demo',
        'cookie_httponly' => true,
        'cookie_samesite' => 'Strict',
        'cookie_secure' => ($_SERVER['HTTPS'] ?? '') === 'on',
        'use_strict_mode' => true,
    ]);
}

/** The name of whoever is signed in; nobody else gets past this line. */
function require_user(): string
{
    open_session();
    $user = $_SESSION['user'] ?? null;
    if (!is_string($user)) {
        fail(401, 'not_signed_in', 'Nobody is signed in.');
    }
    return $user;
}

/** Ends the request with an error, in the form that handoffd's own errors have. */
function fail(int $status, string $code, string $message): void
{
    reply($status, ['error' => ['message' => $message, 'type' => 'invalid_request_error', 'code' => $code]]);
}

/** Ends the request with a JSON document. */
function reply(int $status, array $document): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    header('Cache-Control: no-store');
    echo json_encode($document, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);
    exit;
}

/** The JSON object that the page has sent. Of another site's page a browser would ask us first whether it may. */
function read_document(): array
{
    if (strpos($_SERVER['CONTENT_TYPE'] ?? '', 'application/json') !== 0) {
        fail(415, 'bad_question', 'A question is JSON.');
    }
    $body = file_get_contents('php://input', false, null, 0, QUESTION_BYTES_MAX + 1);
    if ($body === false || strlen($body) > QUESTION_BYTES_MAX) {
        fail(413, 'payload_too_large', 'The conversation is too long.');
    }
    $document = json_decode($body, true, 16);
    if (!is_array($document)) {
        fail(400, 'bad_question', 'That is no JSON object.');
    }
    return $document;
}

/**
 * The conversation so far, as handoffd wants it. Only what this page may ask for gets through: who could send any
 * payload could choose any model, or speak as the system.
 */
function read_question(): array
{
    $document = read_document();
    $messages = $document['messages'] ?? null;
    if (!is_array($messages) || $messages === [] || count($messages) > MESSAGES_MAX) {
        fail(400, 'bad_question', 'A question has 1 to ' . MESSAGES_MAX . ' messages.');
    }
    $question = ['messages' => []];
    foreach ($messages as $message) {
        $role = $message['role'] ?? null;
        $content = $message['content'] ?? null;
        if (!in_array($role, ['user', 'assistant'], true) || !is_string($content)) {
            fail(400, 'bad_question', 'A message has the role user or assistant, and text.');
        }
        $question['messages'][] = ['role' => $role, 'content' => $content];
    }
    if (trim(end($question['messages'])['content']) === '') {
        fail(400, 'bad_question', 'The question is empty.');
    }
    // For trying out what goes wrong: the mock obeys where its configuration says so, other backends ignore it.
    if (isset($document['mock']) && is_array($document['mock'])) {
        $known = ['length', 'token_delay_ms', 'first_token_delay_ms', 'fail_at'];
        $question['mock'] = array_intersect_key($document['mock'], array_flip($known));
    }
    return $question;
}
